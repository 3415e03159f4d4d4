"""The last complete checkpoint and the best one; what was tampered with or cut is named and not followed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe.critic_r1.training import checkpoints
from recipe.critic_r1.training.checkpoints import CheckpointError

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
        (folder / f"global_step_{step}" / "data.pt").write_bytes(b"state")
        (folder / checkpoints.TRACKER).write_text(str(step))
    return model


def weights(folder: Path) -> float:
    return float(load_file(folder / "model.safetensors")["w"][0])


def test_the_last_step(tmp_path: Path) -> None:
    assert checkpoints.last_step(tmp_path) is None
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, finished=False)
    assert checkpoints.last_step(tmp_path) == 10
    assert checkpoints.resume_point(tmp_path) == tmp_path / "global_step_10"


@pytest.mark.parametrize("text", ["ten", "-1", "1_0", "../10", "10\n20", "\u0661", "\x00", "1" * 13, "\udc80"])
def test_a_tracker_that_holds_no_step_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / checkpoints.TRACKER).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"latest_checkpointed_iteration.txt holds '.*' and not a step: write"):
        checkpoints.last_step(tmp_path)


STEP, SHARD = "global_step_10", "model_world_size_1_rank_0.pt"


def link_to_a_checkpoint(folder: Path) -> None:
    (folder / STEP).rename(folder.parent / "theirs")
    (folder / STEP).symlink_to(folder.parent / "theirs")


def linked_tracker(folder: Path) -> None:
    (folder / checkpoints.TRACKER).rename(folder.parent / "tracker")
    (folder / checkpoints.TRACKER).symlink_to(folder.parent / "tracker")


def fifo(folder: Path) -> None:
    (folder / checkpoints.TRACKER).unlink()
    os.mkfifo(folder / checkpoints.TRACKER)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: shutil.rmtree(folder / STEP),
            r"names step 10, but .*global_step_10 does not exist: .*\(present: global_step_5\)",
        ),
        (lambda folder: (folder / STEP / "data.pt").unlink(), r"global_step_10 is incomplete \(data\.pt is missing\)"),
        (
            lambda folder: (folder / STEP / "actor" / SHARD).touch(),
            r"incomplete \(model_world_size_1_rank_0\.pt is empty\)",
        ),
        (link_to_a_checkpoint, r"global_step_10 is a symbolic link that leads out of"),
        (
            lambda folder: (folder / STEP / "actor" / "optim.pt").symlink_to("/etc/hostname"),
            r"optim\.pt is a symbolic link that leads out of",
        ),
        (linked_tracker, "is not a plain file"),
        (fifo, "is not a plain file"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint(folder, 5)
    checkpoint(folder, 10)
    spoil(folder)
    with pytest.raises(CheckpointError, match=said):
        checkpoints.resume_point(folder)


@pytest.mark.parametrize("record", ["", "[]", '{"step": 1}', '{"step": "x", "accuracy": 1, "metrics": {}}', "[" * 9999])
def test_a_damaged_record_of_the_best_is_named(tmp_path: Path, record: str) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged .*: delete .*best to forget the best step"):
        checkpoints.best(tmp_path)


def test_links_in_the_place_of_our_folders_are_not_followed(tmp_path: Path) -> None:
    folder, theirs = tmp_path / "checkpoints", tmp_path / "theirs"
    checkpoint(folder, 10)
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("precious")
    for name in (".best.partial", ".best.replaced"):
        (folder / name).symlink_to(theirs)
    assert checkpoints.keep_best(folder, 10, {CRITIC: 0.5})
    assert os.listdir(theirs) == ["thesis.txt"]
    shutil.rmtree(folder / "best")
    (folder / "best").symlink_to(theirs)
    with pytest.raises(CheckpointError, match="leads out of"):
        checkpoints.keep_best(folder, 10, {CRITIC: 0.6})
    assert os.listdir(theirs) == ["thesis.txt"]


def test_how_a_checkpoint_was_sharded(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    record = tmp_path / "global_step_10" / "actor" / "fsdp_config.json"
    assert checkpoints.sharding(tmp_path / "global_step_10") is None
    record.write_text('{"FSDP_version": 2, "world_size": 8}')
    assert checkpoints.sharding(tmp_path / "global_step_10") == checkpoints.Sharding(8, 2)
    record.write_text('{"world_size": 8}')
    with pytest.raises(CheckpointError, match=r"fsdp_config\.json is damaged"):
        checkpoints.sharding(tmp_path / "global_step_10")


def test_a_tracker_that_a_kill_left_empty_is_filled_in(tmp_path: Path) -> None:
    assert checkpoints.repair(tmp_path) is None
    for step in (9, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 20, finished=False)
    assert checkpoints.repair(tmp_path) is None
    assert checkpoints.last_step(tmp_path) == 10
    (tmp_path / "global_step_x").mkdir()
    (tmp_path / "global_step_x" / "data.pt").touch()
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
    assert record is not None
    assert record.accuracy == pytest.approx(0.8)
    assert set(record.metrics) == {CRITIC, OTHER}
    assert sorted(path.name for path in tmp_path.iterdir() if "best" in path.name) == ["best"]


def test_it_costs_no_space(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, 10)
    checkpoints.keep_best(tmp_path, 10, {CRITIC: 0.5})
    assert os.path.samefile(model / "model.safetensors", tmp_path / "best" / "huggingface" / "model.safetensors")


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str, **_: bool) -> None:
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
