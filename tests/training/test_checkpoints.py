"""The last whole checkpoint, the best one, and the folder made of them."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from recipe.critic_r1.training import checkpoints
from recipe.critic_r1.training.export import ExportError, export

CRITIC = "val-core/critic/digits/acc/mean@1"
OTHER = "val-core/critic/vqa/acc/mean@1"
POLICY = "val-core/policy/digits/acc/mean@1"


def checkpoint(folder: Path, step: int, *, finished: bool = True) -> Path:
    """A checkpoint as verl leaves it, the weights being the step."""
    model = folder / f"global_step_{step}" / "actor" / "huggingface"
    model.mkdir(parents=True)
    save_file({"w": torch.full((2,), float(step))}, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}}))
    if finished:
        (folder / f"global_step_{step}" / "data.pt").touch()
        (folder / checkpoints.TRACKER).write_text(str(step))
    return model


def weights(folder: Path) -> float:
    return float(load_file(folder / "model.safetensors")["w"][0])


def test_the_last_step(tmp_path: Path) -> None:
    assert checkpoints.last_step(tmp_path) is None
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, finished=False)
    assert checkpoints.last_step(tmp_path) == 10
    (tmp_path / checkpoints.TRACKER).write_text("ten")
    with pytest.raises(checkpoints.TrackerError, match=r"latest_checkpointed_iteration.txt holds 'ten'"):
        checkpoints.last_step(tmp_path)


def test_a_tracker_that_a_kill_left_empty_is_filled_in(tmp_path: Path) -> None:
    assert checkpoints.repair(tmp_path) is None
    for step in (9, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 20, finished=False)
    assert checkpoints.repair(tmp_path) is None
    assert checkpoints.last_step(tmp_path) == 10
    (tmp_path / checkpoints.TRACKER).write_text("")
    assert checkpoints.repair(tmp_path) == 10
    assert checkpoints.last_step(tmp_path) == 10


def test_an_empty_tracker_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    (tmp_path / checkpoints.TRACKER).write_text("")
    assert checkpoints.repair(tmp_path) is None
    assert checkpoints.last_step(tmp_path) is None


def test_the_best_is_kept_when_its_checkpoint_is_deleted(tmp_path: Path) -> None:
    for step, accuracy, kept in ((10, 0.6, 10), (20, 0.8, 20), (30, 0.8, 20), (40, 0.7, 20)):
        model = checkpoint(tmp_path, step)
        found = checkpoints.keep_best(tmp_path, step, {CRITIC: accuracy, OTHER: accuracy, POLICY: 1.0, "x": "text"})
        assert (found is not None) == (kept == step)
        (model / "model.safetensors").unlink()
        record = checkpoints.best(tmp_path)
        assert record is not None
        assert record.step == kept
        assert weights(tmp_path / "best" / "huggingface") == kept
    assert record.accuracy == pytest.approx(0.8)
    assert set(record.metrics) == {CRITIC, OTHER}
    assert sorted(path.name for path in tmp_path.iterdir() if "best" in path.name) == ["best"]


def test_it_costs_no_space(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, 10)
    checkpoints.keep_best(tmp_path, 10, {CRITIC: 0.5})
    assert os.path.samefile(model / "model.safetensors", tmp_path / "best" / "huggingface" / "model.safetensors")


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint(tmp_path, 10)
    assert checkpoints.keep_best(tmp_path, 10, {CRITIC: 0.5})
    assert weights(tmp_path / "best" / "huggingface") == 10


def test_without_critic_rows_policy_rows_decide(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    assert checkpoints.keep_best(tmp_path, 10, {"critic_r1/accuracy": 1.0}) is None
    found = checkpoints.keep_best(tmp_path, 10, {POLICY: 0.25})
    assert found is not None
    assert found.accuracy == 0.25


def test_a_best_that_will_be_trained_again_is_forgotten(tmp_path: Path) -> None:
    checkpoint(tmp_path, 20)
    checkpoints.keep_best(tmp_path, 20, {CRITIC: 0.5})
    checkpoints.forget_after(tmp_path, 20)
    assert checkpoints.best(tmp_path) is not None
    checkpoints.forget_after(tmp_path, 10)
    assert checkpoints.best(tmp_path) is None
    checkpoints.forget_after(tmp_path, 10)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose best step is 10 and whose last is 20."""
    folder = tmp_path / "run"
    for step, accuracy in ((10, 0.9), (20, 0.8)):
        checkpoint(folder / "checkpoints", step)
        checkpoints.keep_best(folder / "checkpoints", step, {CRITIC: accuracy})
    (folder / "train").mkdir()
    config = {
        "trainer": {"experiment_name": "r1"},
        "actor_rollout_ref": {"model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct"}, "rollout": {"n": 8}},
    }
    (folder / "train" / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps({"step": step, "data": {CRITIC: value}}) for step, value in ((10, 0.9), (20, 0.8))]
    (folder / "train" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(("which", "step", "accuracy"), [("best", 10, "0.9000"), ("last", 20, "0.8000")])
def test_export(run_dir: Path, tmp_path: Path, which: str, step: int, accuracy: str) -> None:
    out = export(run_dir, tmp_path / "out", which=which)
    assert weights(out) == step
    config = json.loads((out / "config.json").read_text())
    assert config == {"dtype": "float32", "text_config": {"dtype": "float32"}}
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert f"r1, step {step}" in card
    assert f"`{CRITIC}`: {accuracy}" in card
    assert "`actor_rollout_ref.rollout.n`: 8" in card
    assert "float32" in card
    # The export does not share files with the run.
    (out / "config.json").write_text("changed")
    assert "changed" not in (run_dir / "checkpoints" / "best" / "huggingface" / "config.json").read_text()


def test_export_of_what_is_not_there(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="global_step_15 does not exist; kept are global_step_10, global_step_20"):
        export(run_dir, tmp_path / "out", 15)
    checkpoint(run_dir / "checkpoints", 30, finished=False)
    with pytest.raises(ExportError, match="may be partial"):
        export(run_dir, tmp_path / "out", 30)
    checkpoints.forget_after(run_dir / "checkpoints", 0)
    with pytest.raises(ExportError, match=r"trainer.test_freq equal to trainer.save_freq, or export --which last"):
        export(run_dir, tmp_path / "out", which="best")
    with pytest.raises(ExportError, match="last or best"):
        export(run_dir, tmp_path / "out", which="first")
