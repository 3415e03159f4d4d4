"""The logs of a run: every step exactly once, whatever killed the run in between."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.critic_r1.training.run_log import METRICS, SAMPLES, RunLog, read_lines
from recipe.critic_r1.training.step_metrics import Rollout


def rollout(sample: int = 0) -> Rollout:
    return Rollout(
        uid="u",
        sample=sample,
        data_source="critic/digits",
        prompt="<image>What digit is shown?",
        response="<think>I see a 7.</think>\\boxed{1}",
        response_tokens=14,
        ground_truth="1",
        extra_info={"pair_id": "p", "order": 0, "image_blake3": ["ab"]},
        reward={"score": 1.0, "acc": 1.0, "format": 1.0, "pred": "1", "reason": "ok"},
    )


def steps(folder: Path, name: str) -> list[int]:
    return [record["step"] for record in read_lines(folder / name)]


def test_a_line_a_step_and_a_line_a_rollout(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(1, {"critic_r1/score": 0.5, "table": {"not": "a number"}}, [rollout(0), rollout(1)])
    assert list(read_lines(tmp_path / METRICS)) == [{"step": 1, "data": {"critic_r1/score": 0.5}}]
    first, second = read_lines(tmp_path / SAMPLES)
    assert (first["sample"], second["sample"]) == (0, 1)
    assert first["image"] == ["ab"]
    assert first["reason"] == "ok"


def test_samples_can_be_switched_off(tmp_path: Path) -> None:
    RunLog(tmp_path, samples=False).write(1, {"a": 1.0}, [rollout()])
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize(
    ("checkpoint", "kept"),
    [
        (0, []),  # no checkpoint yet: the run starts over
        (2, [1, 2]),  # steps 3 and 4 are run again
        (4, [1, 2, 3, 4]),  # killed right after the checkpoint
        (9, [1, 2, 3, 4]),  # a checkpoint of a run whose log was deleted: nothing to cut
    ],
)
def test_resume_cuts_back_to_the_checkpoint(tmp_path: Path, checkpoint: int, kept: list[int]) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 5):
        log.write(step, {"a": 1.0}, [rollout(), rollout()])
    log.resume_after(checkpoint)
    assert steps(tmp_path, METRICS) == kept
    assert steps(tmp_path, SAMPLES) == [step for step in kept for _ in range(2)]


@pytest.mark.parametrize("tail", ['{"step": 3, "da', '{"step": 3}', "\x00\x00", "\n"])
def test_a_half_written_line_goes(tmp_path: Path, tail: str) -> None:
    log = RunLog(tmp_path)
    log.write(1, {"a": 1.0}, [rollout()])
    with (tmp_path / METRICS).open("a") as file:
        file.write(tail)
    log.resume_after(5)
    log.write(2, {"a": 2.0}, [rollout()])
    assert steps(tmp_path, METRICS) == [1, 2]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\nnot json\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: not JSON"):
        list(read_lines(path))


@pytest.mark.parametrize("tail", [b'{"step": 2, "da', b'{"step": 2, "data": "\xe2\x80', b"\x00\x00"])
def test_who_reads_along_sees_whole_lines_only(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n' + tail)
    assert list(read_lines(path)) == [{"step": 1}]


def test_text_that_is_not_unicode_is_logged(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(1, {}, [replace(rollout(), response="\udc80")])
    assert [record["response"] for record in read_lines(tmp_path / SAMPLES)] == ["\udc80"]


@pytest.mark.parametrize("name", [METRICS, SAMPLES])
def test_no_link_is_written_through(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text('{"step": 9}\n')
    log = RunLog(tmp_path / "train")
    (tmp_path / "train" / name).symlink_to(theirs)
    writes: list[Callable[[], object]] = [lambda: log.resume_after(1), lambda: log.write(1, {"a": 1.0}, [rollout()])]
    for write in writes:
        with pytest.raises(OSError, match=name):
            write()
    assert theirs.read_text() == '{"step": 9}\n'


@pytest.mark.parametrize("damaged", ["not json", "[]", '{"data": {}}', '{"step": "x"}'])
def test_a_damaged_line_before_the_end_is_named(
    tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / METRICS).write_text(f'{{"step": 1}}\n{damaged}\n{{"step": 2}}\n')
    RunLog(tmp_path).resume_after(5)
    assert steps(tmp_path, METRICS) == [1]
    assert "metrics.jsonl, line 2 is damaged; it and the" in capsys.readouterr().err
