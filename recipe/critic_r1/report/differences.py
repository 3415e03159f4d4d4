"""Changes from one set of metrics to another, with their intervals.

If both judged the same pairs, the change is paired, on the same bootstrap resamples (`judging.comparison`), so that
common difficulty does not widen the interval. Metrics without their answers (a greedy accuracy, a third-party suite)
have only two intervals, which are combined by Newcombe's method (R. G. Newcombe, 1998, method 10; for means in general
Zou and Donner, 2008). It assumes independence, which is conservative for two models on the same images.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from scipy.stats import t

from recipe.critic_r1.judging.comparison import compare
from recipe.critic_r1.judging.intervals import CONFIDENCE
from recipe.critic_r1.judging.pairwise import Judgement, JudgeTask
from recipe.critic_r1.report.judgements import verdict_of
from recipe.critic_r1.report.records import JudgementLine, MetricValue
from recipe.critic_r1.report.run_files import Measured


@dataclass(frozen=True)
class Difference:
    """Second minus first. `low` and `high` are None when an interval is missing."""

    value: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def sure(self) -> int:
        """+1 or -1 if the interval is above or below zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


def newcombe(first: MetricValue, second: MetricValue) -> Difference | None:
    """The change between two values from their intervals; None when one was not measured.

    >>> change = newcombe(MetricValue(value=0.5, low=0.4, high=0.6), MetricValue(value=0.7, low=0.6, high=0.8))
    >>> round(change.low, 3), round(change.high, 3)
    (0.059, 0.341)
    """
    if first.value is None or second.value is None:
        return None
    change = second.value - first.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Difference(change, None, None, paired=False)
    low = change - math.hypot(second.value - second.low, first.high - first.value)
    high = change + math.hypot(second.high - second.value, first.value - first.low)
    return Difference(change, low, high, paired=False)


def over_runs(changes: list[Difference]) -> Difference | None:
    """The mean change over runs with a 95 % t-interval over runs; None for less than two.

    >>> mean = over_runs([Difference(change, None, None, False) for change in (0.1, 0.2, 0.3)])
    >>> round(mean.value, 3), round(mean.low, 3), round(mean.high, 3)
    (0.2, -0.048, 0.448)
    """
    if len(changes) < 2:
        return None
    values = [change.value for change in changes]
    mean = statistics.fmean(values)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(mean, mean - half, mean + half, paired=False)


def _judged(one: JudgementLine) -> Judgement:
    """A judgement for `compare`. Raises ValueError when the order is not a number."""
    if not one.order.isdecimal():
        raise ValueError(f"the judgement of pair {one.pair_id} has no order")
    task = JudgeTask(
        pair_id=one.pair_id,
        order=int(one.order),
        messages=(),
        question=one.question,
        response_1=one.response_1,
        response_2=one.response_2,
        ground_truth=one.ground_truth.strip().lower(),
        image_blake3=one.image_blake3,
        category=one.category,
    )
    return Judgement(
        task, verdict_of(one) or None, one.reason, one.well_formed or 0.0, (), one.response, error=one.error or None
    )


def _names(metric: str) -> list[str]:
    """Names in a result file for a metric of `compare`."""
    if metric.startswith("category/"):
        return [metric, f"official/{metric.removesuffix('/accuracy')}"]
    if metric.startswith("length/"):
        return [metric]
    # The official metric of a benchmark is the mean over both orders too (`judging.official_metrics`).
    return [f"critic/{metric}", "official/overall"] if metric == "accuracy" else [f"critic/{metric}"]


def differences(first: Measured, second: Measured) -> tuple[dict[str, Difference], dict[str, Any] | None, str]:
    """(metric -> change, McNemar's test, why pairs could not be compared or "")."""
    changes: dict[str, Difference] = {}
    after = second.evaluation.metrics
    for name, before in first.evaluation.metrics.items():
        # Of third-party metrics only the number of questions is known.
        if name not in after or (first.kind == "policy" and before.n != after[name].n):
            continue
        if change := newcombe(before, after[name]):
            changes[name] = change
    if not (first.judgements and second.judgements):
        return changes, None, ""
    try:
        found = compare([_judged(one) for one in first.judgements], [_judged(one) for one in second.judgements])
    except ValueError as error:
        return changes, None, str(error)
    known = all(one.well_formed is not None for run in (first, second) for one in run.judgements)
    for metric, both in found.figures.items():
        estimate = both.difference
        if estimate.value is None or (metric == "format_rate" and not known):
            continue
        for name in _names(metric):
            if name in changes:
                changes[name] = Difference(estimate.value, estimate.low, estimate.high, paired=True)
    parts = ("pairs", "unanswered", "only_first", "only_second", "p_value")
    return changes, {part: getattr(found, part) for part in parts}, ""
