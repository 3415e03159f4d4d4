"""A checkpoint that this run cannot resume from is refused before the start, with the way out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.critic_r1.preflight import resume
from recipe.critic_r1.training.checkpoints import TRACKER
from tests.preflight.conftest import ACTOR, Run, every_refusal_was_made


@pytest.fixture
def saved(run: Run) -> Path:
    """Step 5 of the run, written by one FSDP2 worker."""
    checkpoint = run.folder / "checkpoints" / "global_step_5"
    (checkpoint / "actor").mkdir(parents=True)
    (checkpoint / "actor" / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    (checkpoint / "data.pt").write_bytes(b"state")
    (checkpoint.parent / TRACKER).write_text("5")
    return checkpoint


def test_the_same_settings_resume(run: Run, saved: Path) -> None:
    (found,) = resume.checkpoint(run.config({}, "demo"))
    assert (found.status, found.detail) == ("pass", f"from {saved}")
    (saved / "actor" / "fsdp_config.json").unlink()  # an earlier verl wrote none
    assert [finding.status for finding in resume.checkpoint(run.config({}, "demo"))] == ["pass"]


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"trainer.n_gpus_per_node": "2"}, "the number of workers was 1 and is 2"),
        ({f"{ACTOR}.strategy": "fsdp"}, "the strategy was FSDP2 and is FSDP1"),
    ],
)
@pytest.mark.parametrize("by_path", [False, True])
def test_another_sharding_is_refused(
    run: Run, saved: Path, changed: dict[str, str], pattern: str, by_path: bool
) -> None:
    if by_path:
        changed = changed | {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": str(saved)}
    (line,) = run.said(resume.checkpoint, changed, "fail", "demo")
    assert pattern in line
    (found,) = resume.checkpoint(run.config(changed, "demo"))
    assert "critic-r1 export RUN --out MODEL" in found.remedy
    assert list(resume.checkpoint(run.config(changed | {"trainer.resume_mode": "disable"}, "demo"))) == []


def damaged(saved: Path) -> None:
    (saved.parent / TRACKER).write_text("five")


def missing(saved: Path) -> None:
    (saved.parent / TRACKER).write_text("7")


def linked(saved: Path) -> None:
    (saved / "actor" / "x.pt").symlink_to("/etc/hostname")


def empty(saved: Path) -> None:
    (saved.parent / TRACKER).write_text("")


@pytest.mark.parametrize(
    ("spoil", "status", "pattern"),
    [
        (damaged, "fail", "holds 'five' and not a step"),
        (missing, "fail", "global_step_7 does not exist"),
        (linked, "fail", "leads out of"),
        (empty, "warn", "an interrupted save left"),
    ],
)
def test_a_damaged_run_is_named(
    run: Run, saved: Path, spoil: Callable[[Path], None], status: str, pattern: str
) -> None:
    spoil(saved)
    (line,) = run.said(resume.checkpoint, {}, status, "demo")
    assert pattern in line


@pytest.mark.parametrize("name", ["train/metrics.jsonl", "train/config.yaml", "checkpoints/best"])
def test_a_link_out_of_the_run_is_refused(run: Run, saved: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs").write_text("precious")
    (run.folder / "train").mkdir()
    (run.folder / name).symlink_to(tmp_path / "theirs")
    (line,) = run.said(resume.links, {}, "fail", "demo")
    assert name in line


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "resume.py")
