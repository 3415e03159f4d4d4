"""What lmms-eval wrote, as figures with intervals.

The value is the tool's, to the digit. The interval is made from what the tool kept of each question: where the
benchmark's figure is the mean of yes and no per question it is Wilson's, where it is the mean of other numbers it comes
from drawing questions anew (judging/intervals.py). Where the figure is more than a mean, the tool's own standard error
makes it; where there is none, questions are drawn anew and the tool's own aggregation is asked for the figure of each
draw (tool_side/lmms_interval.py). A figure for which nothing of this works stays without an interval, which is said.

A request that failed is no wrong answer, although the tool scores it as one: a benchmark with such a request has no
figure until the same command has filled the gap.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scipy.stats import norm

from data_prep.files import json_lines
from recipe.critic_r1.eval_policy.suites import Benchmark
from recipe.critic_r1.eval_policy.tool_side.final_answer import final_answer
from recipe.critic_r1.judging.intervals import CONFIDENCE, ClusterBootstrap
from reward_fns.replies import FilteredError, SenselessAnswerError, read_reply

FAILED = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED")
"""How the tool's answers begin that are none."""

TOLERANCE = 5e-4
"""By how much the mean over questions may differ from the tool's figure and still be it: some round to two digits."""

JOURNAL_FORMAT = 2
"""Of the records of tool_side/lmms_model.py; older ones may hold errors of gateways as answers."""

READABLE = ("ok", "no_think", "empty_think", "think_not_opened", "text_before_think", "extra_think", "repeated_box")
"""Readings with an answer in a box; the form may be another than the one asked for."""


@dataclass(frozen=True)
class Figure:
    """A benchmark's figure on the scale of 0 to 1.

    low, high: ends of a 95 % interval, None where there is none. n: questions. stderr: half the width of the interval
    in normal units, or what the tool says. interval: where it is from: `wilson`, `bootstrap`, `tool` (its standard
    error), `redrawn` (its aggregation over draws), `normal` (of a mean over benchmarks), `none`.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    stderr: float | None
    interval: str


@dataclass(frozen=True)
class Reading:
    """How a benchmark's raw responses were read.

    reasons: responses by how they were read (`reward_fns.verdict.Reason`). cut: responses at the token limit.
    tokens: prompt and completion tokens.
    """

    responses: int = 0
    boxed: int = 0
    cut: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class IncompleteError(RuntimeError):
    """Requests of a benchmark failed: it has no figure yet."""


def read(benchmark: Benchmark, output: Path, *, seed: int = 0) -> Figure:
    """The figure of a benchmark from the tool's output folder, which holds one run.

    Raises:
        FileNotFoundError: the tool wrote no result. IncompleteError: requests failed.
        ValueError: the result has no such metric, or a file is damaged.
    """
    path = max(output.rglob("*_results.json"), default=None)
    if path is None:
        raise FileNotFoundError(f"lmms-eval wrote no result below {output}")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))["results"].get(benchmark.task, {})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the same command again") from error
    samples = _samples(samples_file(benchmark, output))
    failed = [text for sample in samples for text in _failures(sample)]
    if failed:
        raise IncompleteError(
            f"{len(failed)} of {len(samples)} requests failed: run the same command again; the first: {failed[0]}"
        )
    found = {key.split(",")[0]: value for key, value in result.items() if key.split(",")[0] == benchmark.metric}
    value = found.get(benchmark.metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        named = ", ".join(sorted({key.split(",")[0] for key in result if "," in key and "_stderr" not in key}))
        raise ValueError(f"{path} has no number for {benchmark.metric!r} of {benchmark.task}, but {named or 'nothing'}")
    errors = {key.split(",")[0]: error for key, error in result.items() if "_stderr," in key}
    stderr = errors.get(f"{benchmark.metric}_stderr")
    return figure(
        value / benchmark.unit,
        [sample.get(benchmark.metric) for sample in samples],
        stderr / benchmark.unit if isinstance(stderr, int | float) and math.isfinite(stderr) else None,
        seed=seed,
    )


def _samples(path: Path) -> list[dict[str, Any]]:
    samples = []
    for line in json_lines(path):
        if not isinstance(line.value, dict):
            raise ValueError(f"{path} line {line.number} is damaged ({line.error}): run the same command again")
        samples.append(line.value)
    if not samples:
        raise ValueError(f"{path} is empty: run the same command again")
    return samples


def figure(value: float, scores: Sequence[object], error: float | None, *, seed: int = 0) -> Figure:
    """A figure with the best interval that can be had.

    Args:
        value: what the tool reports, on the scale of 0 to 1.
        scores: per question what the tool kept under the metric's name; numbers, or anything else.
        error: the tool's standard error, on the same scale.
    """
    numbers = [float(score) for score in scores if isinstance(score, int | float)]
    if numbers and len(numbers) == len(scores) and abs(sum(numbers) / len(numbers) - value) <= TOLERANCE:
        estimate = ClusterBootstrap([str(i) for i in range(len(numbers))], seed=seed).rate(numbers)
        kind = "wilson" if set(numbers) <= {0.0, 1.0} else "bootstrap"
        return Figure(value, estimate.low, estimate.high, len(numbers), _stderr(estimate.low, estimate.high), kind)
    if error is not None:
        half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error
        return Figure(value, max(0.0, value - half), min(1.0, value + half), len(scores), error, "tool")
    return Figure(value, None, None, len(scores), None, "none")


def redrawn(figure: Figure, found: dict[str, float], unit: int) -> Figure:
    """A figure without an interval with the one that tool_side/lmms_interval.py found, if it found the same figure."""
    if abs(found["value"] / unit - figure.value) > TOLERANCE:
        return figure
    ends = (found["low"] / unit, found["high"] / unit)
    return replace(figure, low=ends[0], high=ends[1], stderr=found["stderr"] / unit, interval="redrawn")


def mean(figures: Sequence[Figure]) -> Figure:
    """The mean over benchmarks, each with the same weight. Its interval needs one from each of them."""
    value = sum(figure.value for figure in figures) / len(figures)
    n = sum(figure.n for figure in figures)
    errors = [figure.stderr for figure in figures if figure.stderr is not None]
    if len(errors) < len(figures):
        return Figure(value, None, None, n, None, "none")
    error = sum(e * e for e in errors) ** 0.5 / len(figures)
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error
    return Figure(value, max(0.0, value - half), min(1.0, value + half), n, error, "normal")


def reading(journal: Path, *, prefilled: bool = False) -> Reading:
    """How the raw responses in a journal of tool_side/lmms_model.py were read, and what they cost."""
    reasons: Counter[str] = Counter()
    cut = boxed = prompt = completion = 0
    for line in json_lines(journal):
        if line.error is not None or not isinstance(line.value, dict) or line.value.get("format") != JOURNAL_FORMAT:
            continue
        try:
            found = read_reply(line.value.get("response"), sys.maxsize)
        except FilteredError:
            reasons["filtered"] += 1
            continue
        except SenselessAnswerError:
            continue  # of a line that was tampered with; the tool asks again
        text, ended = found.texts[0], found.finish_reasons[0]
        _, reason = final_answer(text, prefilled=prefilled, finished=ended != "length")
        reasons["refused" if ended == "refusal" else reason] += 1
        boxed += reason in READABLE
        cut += ended == "length"
        prompt += found.prompt_tokens
        completion += found.completion_tokens
    return Reading(reasons.total(), boxed, cut, dict(reasons.most_common()), prompt, completion)


def report(
    groups: dict[str, Sequence[Benchmark]],
    figures: dict[str, Figure],
    readings: dict[str, Reading],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """The result file's content beside its settings: `metrics` in the form of all our result files.

    Names: `policy/<group>/<task>`, `policy/<group>/mean` over a group that is whole, `policy/mean` over a whole suite.
    """
    metrics: dict[str, Figure] = {}
    whole = True
    for group, benchmarks in groups.items():
        have = [figures[benchmark.task] for benchmark in benchmarks if benchmark.task in figures]
        metrics |= {f"policy/{group}/{b.task}": figures[b.task] for b in benchmarks if b.task in figures}
        if len(have) == len(benchmarks) > 1:
            metrics[f"policy/{group}/mean"] = mean(have)
        whole &= len(have) == len(benchmarks)
    if whole and len(figures) > 1:
        metrics["policy/mean"] = mean([figures[b.task] for benchmarks in groups.values() for b in benchmarks])
    return {
        "metrics": {name: asdict(figure) for name, figure in metrics.items()},
        "reading": {task: asdict(found) for task, found in readings.items()},
        "left_out": left_out,
    }


def _stderr(low: float | None, high: float | None) -> float | None:
    if low is None or high is None:
        return None
    return (high - low) / (2 * float(norm.ppf(0.5 + CONFIDENCE / 2)))


def _failures(sample: dict[str, Any]) -> list[str]:
    """What the tool put in the place of answers that it could not get; one of them for each request."""

    def texts(value: object) -> Iterable[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for one in value:
                yield from texts(one)

    # The tool keeps `resps` only where a filter changed them.
    return [text for text in texts(sample.get("resps") or sample.get("filtered_resps")) if text.startswith(FAILED)]


def samples_file(benchmark: Benchmark, output: Path) -> Path:
    """What the tool kept of each question.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = next(output.rglob(f"*_samples_{benchmark.task}.jsonl"), None)
    if path is None:
        raise FileNotFoundError(f"lmms-eval wrote no samples of {benchmark.task} below {output}")
    return path
