"""A rehearsal measures the training that it starts, and leaves nothing however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from recipe.critic_r1.rehearsal import dress_rehearsal
from recipe.critic_r1.rehearsal.dress_rehearsal import RehearsalError, rehearse
from recipe.critic_r1.train import ConfigurationError

TRAINING = """#!{python}
import json, os, sys, time
from pathlib import Path
given = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
run = Path(given["critic_r1.run_dir"])
(run / "train").mkdir(parents=True)
print("critic-r1: training stopped: made up", flush=True)
if os.environ.get("MADE_UP") == "fails":
    sys.exit(3)
if os.environ.get("MADE_UP") == "hangs":
    Path(os.environ["STARTED"]).write_text("")
    time.sleep(600)
with (run / "train" / "metrics.jsonl").open("w") as lines:
    for step in (1, 2, 3):
        lines.write(json.dumps({{"step": step, "data": {{"timing_s/step": step}}}}) + "\\n")
saved = run / "checkpoints" / "global_step_3" / "actor"
saved.mkdir(parents=True)
(saved / "weights.pt").write_bytes(b"0" * 1000)
(saved.parents[1] / "latest_checkpointed_iteration.txt").write_text("3")
"""
"""In the place of `python -m recipe.critic_r1.train`, which takes minutes."""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    script = tmp_path / "training"
    script.write_text(TRAINING.format(python=sys.executable))
    script.chmod(0o755)
    return script


def given(folder: Path) -> list[str]:
    return [f"critic_r1.run_dir={folder / 'runs' / 'deep' / 'r1'}"]


def test_measurements_are_those_of_the_training(
    tmp_path: Path, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(training))
    config, found = rehearse("r1", given(tmp_path), Console(quiet=True), tiny=True)
    assert [step["timing_s/step"] for step in found.steps] == [1, 2, 3]
    assert found.checkpoint_bytes == 1000
    assert found.checkpoint_seconds >= 0
    assert found.limits.prompt_tokens == config.data.max_prompt_length
    assert found.model["model_type"] == "qwen2_5_vl"
    assert config.trainer.save_freq == 10  # the run's, not the rehearsal's
    assert not (tmp_path / "runs").exists()


def test_a_failed_training_is_told_and_removed(tmp_path: Path, training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(training))
    monkeypatch.setenv("MADE_UP", "fails")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    log = tmp_path / "kept.log"
    with pytest.raises(RehearsalError, match="exit status 3\ncritic-r1: training stopped: made up"):
        rehearse("r1", given(tmp_path), Console(quiet=True), tiny=True, log=log)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]
    assert "made up" in log.read_text()


REFUSED = [
    ("r1", ["tuning=async"], "trainer mode colocate_async writes no metrics"),
    ("r1", ["actor_rollout_ref.model.path=nobody/nothing"], "the sizes of nobody/nothing are not known"),
    ("r1", ["data.max_prompt_length=5"], "leaves no room for an image"),
]


@pytest.mark.parametrize(("name", "changed", "said"), REFUSED)
def test_what_cannot_be_rehearsed_is_refused_and_leaves_nothing(
    name: str, changed: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RehearsalError, match=said):
        rehearse(name, [*given(tmp_path), *changed], Console(quiet=True), tiny=True)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_does_not_compose_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no_such"):
        rehearse("r1", [*given(tmp_path), "no_such=1"], Console(quiet=True))


def test_every_family_has_a_tiny_model() -> None:
    for name in ("r1", "r1_plus", "r1_mimo_sft", "r1_qwen3_vl_8b"):
        config, _ = dress_rehearsal.compose(name, [], tiny=True)
        tiny, whole = (dress_rehearsal.model_of(config, tiny=size) for size in (True, False))
        assert tiny["model_type"] == whole["model_type"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.bench)])
def test_a_signal_leaves_neither_files_nor_processes(sent: signal.Signals, tmp_path: Path, training: Path) -> None:
    started = tmp_path / "started"
    code = f"import sys; sys.executable = {str(training)!r}; from recipe.critic_r1.cli import app; app()"
    command = [sys.executable, "-c", code, "rehearse", "r1", "--tiny", *given(tmp_path)]
    environment = {**os.environ, "MADE_UP": "hangs", "STARTED": str(started)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not started.exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "nothing is left" in said
    assert not (tmp_path / "runs").exists()
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(training) in _command(path)]
    assert alive == []


def _command(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:  # it has ended
        return ""
