"""The script for a machine with a GPU runs to its end, on the CPU with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_rehearsal import ROLLOUTS, TINY_SIDES, TINY_TEXT_TOKENS


@pytest.mark.bench
def test_it_measures_each_image_size_on_both_ways(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.gpu_rehearsal", "--on-cpu", "--architecture", "tiny_qwen2_5_vl"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())["models"]["tiny_qwen2_5_vl"]
    assert list(found) == list(TINY_SIDES)
    for name, side in TINY_SIDES.items():
        image_tokens = (side // 28) ** 2 + 2
        for way in ("stock", "once"):
            measured = found[name][way]
            assert set(measured["seconds"]) == {"old_log_prob", "ref", "update_actor"}
            assert measured["peak_gib"] > 0
            assert measured["tokens"] == sum(image_tokens + 2 * TINY_TEXT_TOKENS - i for i in range(ROLLOUTS))
        assert found[name]["once"]["estimated_gib"] <= found[name]["stock"]["estimated_gib"]
