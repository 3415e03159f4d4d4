"""Rescoring of rollout dumps: verl's shape and ours, two rewards, damaged files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recipe.critic_r1.training.rescore import ScoreReport, load_reward, print_report, score_file

T = "<think>A reason.</think>"
CHANGED = T + "\\boxed{2} no \\boxed{1}"
OURS = [
    {"step": 1, "data_source": "critic/x", "response": T + "\\boxed{1}", "ground_truth": "1", "score": 1.0},
    {"step": 1, "data_source": "policy/x", "response": T + "\\boxed{7}", "ground_truth": "7", "score": 1.0},
    {"step": 2, "data_source": "critic/x", "response": CHANGED, "ground_truth": "1", "score": 1.0},
]


def write(path: Path, records: Sequence[Any], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail, encoding="utf-8")
    return path


def shown(report: ScoreReport) -> str:
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    return console.export_text()


def test_against_the_recorded_score(tmp_path: Path) -> None:
    report = score_file(write(tmp_path / "samples.jsonl", OURS))
    assert (report.rows, report.compared, report.differing) == (3, 3, 1)
    assert report.reasons == {"ok": 2, "conflicting_boxes": 1}
    assert [(d.line, d.step, d.first, d.second) for d in report.differences] == [(3, 2, 0.0, 1.0)]
    text = shown(report)
    assert "conflicting_boxes" in text
    assert "no \\boxed{1}" in text


def test_verls_dump_and_two_rewards(tmp_path: Path) -> None:
    dump = [{"input": "q", "output": r["response"], "gts": r["ground_truth"], "score": 0.5, "step": 1} for r in OURS]
    report = score_file(
        write(tmp_path / "1.jsonl", dump),
        "pkg://reward_fns.preference:compute_score",
        against="pkg://reward_fns.preference",
        against_options={"release_compatible": True},
    )
    assert [(d.line, d.first, d.second) for d in report.differences] == [(2, 0.0, 0.1), (3, 0.0, 1.0)]


def test_a_reward_of_your_own_and_what_cannot_be_scored(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def half(data_source, solution_str, ground_truth, extra_info=None):\n    return 0.5\n")
    records = [*OURS, {"response": 3, "ground_truth": "1"}, {"response": "x"}, [1]]
    report = score_file(write(tmp_path / "a.jsonl", records, '{"response": "cut o'), f"{own}:half", show=1)
    assert (report.rows, report.differing, len(report.differences)) == (3, 3, 1)
    assert sorted(report.rejected.values()) == [1, 1, 1, 1]
    assert "not scored: no response" in shown(report)


@pytest.mark.parametrize("content", ["", "\n\n", "nonsense\n", '{"a": 1}\n'])
def test_a_file_without_rollouts(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"bad\.jsonl: no line can be scored .*rollout_data_dir"):
        score_file(path)


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_no_file_of_rollouts(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no such file; name the samples\.jsonl of a run"):
        score_file(tmp_path / name)


@pytest.mark.parametrize(
    "spec", ["pkg://no.such.module:f", "/no/such/file.py:f", "pkg://reward_fns.preference:nothing"]
)
def test_a_reward_that_is_not_there(spec: str) -> None:
    with pytest.raises(ValueError, match="cannot load the reward"):
        load_reward(spec)
