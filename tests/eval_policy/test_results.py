"""From the tool's files to figures. The files have the shape that lmms-eval 0.7.3 writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recipe.critic_r1.eval_policy.results import Figure, IncompleteError, figure, mean, read, reading, redrawn, report
from recipe.critic_r1.eval_policy.suites import Benchmark
from recipe.critic_r1.judging.intervals import wilson

FAILED = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Error code: 400"


def write(folder: Path, result: dict[str, Any], samples: list[dict[str, Any]], task: str = "t") -> Path:
    below = folder / "some" / "where"
    below.mkdir(parents=True)
    (below / "20260101_000000_results.json").write_text(json.dumps({"results": {task: result}}))
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (below / f"20260101_000000_samples_{task}.jsonl").write_text(lines)
    return folder


def sample(score: object, text: object = "6", **more: object) -> dict[str, Any]:
    return {"doc_id": 0, "target": "6", "filtered_resps": text, "acc": score, **more}


def test_yes_and_no_per_question(tmp_path: Path) -> None:
    out = write(tmp_path, {"acc,none": 0.75, "acc_stderr,none": 0.25}, [sample(s) for s in (1.0, 1.0, 1.0, 0.0)])
    found = read(Benchmark(task="t", metric="acc"), out)
    low, high = wilson(3, 4)
    assert (found.value, found.n, found.interval) == (0.75, 4, "wilson")
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("value", "scores", "error", "interval"),
    [
        (0.5, [True, False], None, "wilson"),
        (0.6, [0.2, 1.0, 0.6], None, "bootstrap"),
        # Rounded to two digits of a percentage.
        (0.6667, [1, 1, 0], None, "wilson"),
        # A mean over categories is not the mean over questions.
        (0.5, [1.0, 1.0, 1.0, 0.0], 0.1, "tool"),
        (0.5, [1.0, 1.0, 1.0, 0.0], None, "none"),
        # What the tool keeps of a question is a record.
        (0.5, [{"score": 1.0}, {"score": 0.0}], 0.2, "tool"),
        (0.5, [{"score": 1.0}, {"score": 0.0}], None, "none"),
        (0.5, [1.0, None], None, "none"),
    ],
)
def test_where_an_interval_is_from(value: float, scores: list[Any], error: float | None, interval: str) -> None:
    found = figure(value, scores, error)
    assert (found.value, found.n, found.interval) == (value, len(scores), interval)
    assert (found.low is None) == (interval == "none")
    if found.low is not None and found.high is not None:
        assert found.low <= value + 1e-3
        assert found.high >= value - 1e-3


def test_percentages_become_shares(tmp_path: Path) -> None:
    out = write(tmp_path, {"acc,none": 50.0, "acc_stderr,none": 4.0}, [sample({"x": 1}), sample({"x": 0})])
    found = read(Benchmark(task="t", metric="acc", unit=100), out)
    assert (found.value, found.stderr) == (0.5, 0.04)
    assert found.low == pytest.approx(0.5 - 1.96 * 0.04, abs=1e-3)


@pytest.mark.parametrize(
    "samples",
    [
        [sample(1.0), sample(0.0, FAILED)],
        # With a filter between, the tool keeps both.
        [sample(1.0), sample(0.0, "", resps=[[FAILED]])],
    ],
)
def test_a_failed_request_is_no_wrong_answer(tmp_path: Path, samples: list[dict[str, Any]]) -> None:
    out = write(tmp_path, {"acc,none": 0.5}, samples)
    with pytest.raises(IncompleteError, match=r"1 of 2 requests failed: run the same command again.*code: 400"):
        read(Benchmark(task="t", metric="acc"), out)


def test_a_model_may_write_what_looks_like_a_failure(tmp_path: Path) -> None:
    out = write(tmp_path, {"acc,none": 0.0}, [sample(0.0, f"It said {FAILED}")])
    assert read(Benchmark(task="t", metric="acc"), out).value == 0.0


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ({"accuracy,none": 1.0, "accuracy_stderr,none": "N/A"}, ValueError, "no number for 'acc' of t, but accuracy"),
        ({"acc,none": "N/A"}, ValueError, "no number for 'acc'"),
        ({}, ValueError, "but nothing"),
    ],
)
def test_a_result_without_the_metric_is_refused(
    tmp_path: Path, result: dict[str, Any], error: type[Exception], message: str
) -> None:
    out = write(tmp_path, result, [sample(1.0)])
    with pytest.raises(error, match=message):
        read(Benchmark(task="t", metric="acc"), out)


def test_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wrote no result"):
        read(Benchmark(task="t", metric="acc"), tmp_path)


def test_a_tool_without_an_error_still_gives_a_figure(tmp_path: Path) -> None:
    out = write(tmp_path, {"acc,none": 1.0, "acc_stderr,none": "N/A"}, [sample({"s": 1})])
    assert read(Benchmark(task="t", metric="acc"), out) == Figure(1.0, None, None, 1, None, "none")


def mean_of_categories(records: list[dict[str, Any]]) -> float:
    by_category: dict[str, list[float]] = {}
    for record in records:
        by_category.setdefault(record["category"], []).append(record["score"])
    return sum(sum(scores) / len(scores) for scores in by_category.values()) / len(by_category)


def test_an_aggregation_is_asked_for_its_own_interval(lmms_interval: ModuleType) -> None:
    """One category of 90 questions, half of them right, and one of 10, all right: 0.75 +- half of the first's error."""
    records = [{"category": "a", "score": i % 2} for i in range(90)] + [{"category": "b", "score": 1}] * 10
    found = lmms_interval.interval(records, mean_of_categories, 0)
    assert found["value"] == 0.75
    assert found["stderr"] == pytest.approx(0.5 * (0.25 / 90) ** 0.5, rel=0.15)
    assert found["low"] < 0.72 < 0.78 < found["high"]
    assert found == lmms_interval.interval(records, mean_of_categories, 0)


def test_the_interval_of_another_figure_is_not_taken() -> None:
    have = Figure(0.75, None, None, 100, None, "none")
    found = {"value": 75.0, "low": 70.0, "high": 80.0, "stderr": 2.5}
    assert redrawn(have, found, 100) == Figure(0.75, 0.7, 0.8, 100, 0.025, "redrawn")
    assert redrawn(have, {**found, "value": 74.0}, 100) == have


def test_a_mean_gives_every_benchmark_the_same_weight() -> None:
    found = mean([Figure(0.2, 0.1, 0.3, 10, 0.03, "wilson"), Figure(0.6, 0.5, 0.7, 990, 0.04, "wilson")])
    assert (found.value, found.n) == pytest.approx((0.4, 1000))
    assert found.stderr == pytest.approx(0.025)
    assert mean([found, Figure(0.5, None, None, 5, None, "none")]).low is None


def test_a_mean_over_part_of_a_group_is_not_reported() -> None:
    one, two, three = (Benchmark(task=task, metric="acc") for task in ("one", "two", "three"))
    groups: dict[str, Sequence[Benchmark]] = {"a": [one, two], "b": [three]}
    have = Figure(0.5, 0.4, 0.6, 10, 0.05, "wilson")
    whole = report(groups, {"one": have, "two": have, "three": have}, {}, {})["metrics"]
    assert list(whole) == ["policy/a/one", "policy/a/two", "policy/a/mean", "policy/b/three", "policy/mean"]
    part = report(groups, {"one": have, "three": have}, {}, {"two": "failed"})
    assert list(part["metrics"]) == ["policy/a/one", "policy/b/three"]
    assert part["left_out"] == {"two": "failed"}


def test_how_responses_were_read(tmp_path: Path) -> None:
    def line(text: str, finish: str = "stop") -> str:
        choice = {"message": {"content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 10, "completion_tokens": 4}
        return json.dumps({"format": 2, "key": text, "response": {"choices": [choice], "usage": usage}}) + "\n"

    path = tmp_path / "answers.jsonl"
    texts = line("<think>x</think>\\boxed{1}") + line("<think>x", "length") + line("plain") + line("<think>y")[:20]
    path.write_text(texts)
    found = reading(path)
    assert (found.responses, found.boxed, found.cut) == (3, 1, 1)
    assert found.reasons == {"ok": 1, "unclosed_think": 1, "no_box": 1}
    assert (found.prompt_tokens, found.completion_tokens) == (30, 12)
