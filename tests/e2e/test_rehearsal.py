"""R1's own configuration on the real stack: FSDP1, packed rows in bfloat16, prompts computed once, tiny sizes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_r1_is_rehearsed_on_a_cpu_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    command = [sys.executable, "-m", "recipe.critic_r1.cli", "rehearse", "r1", "--tiny"]
    done = subprocess.run([*command, f"critic_r1.run_dir={tmp_path / 'runs' / 'r1'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(re.findall(r"^│ +(.+?) +│ +(\S+)", done.stdout, re.MULTILINE))
    assert (table["prompt, tokens"], table["response, tokens"]) == ("192", "16")
    for part in ("gen", "old_log_prob", "ref", "update_actor", "update_weights", "a later step", "checkpoint, time"):
        assert float(table[part]) > 0
    # bfloat16 on both sides.
    assert float(table["rollout and actor agree to"]) > 0.99
    size, estimate = re.findall(r"checkpoint, size +│ +(\S+) GiB +│ +(\S+) GiB", done.stdout)[0]
    assert float(size) == pytest.approx(float(estimate), rel=0.05)
    assert "Verdict: it fits." in done.stdout
    assert not (tmp_path / "runs").exists()
    assert sorted(set(os.listdir("/dev/shm")) - before) == []
