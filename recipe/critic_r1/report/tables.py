"""Numbers of the evaluations as table rows and tiles: labels, units and the order in which a reader wants them.

Names and meaning of the metrics belong to the code that computes them (`judging.metrics`, `demo.evaluate`); here they
only get a label. A metric that is not listed is shown all the same, under its own name, after the listed ones.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from recipe.critic_r1.report.charts import number
from recipe.critic_r1.report.run_files import Estimate, Evaluation

Unit = Literal["share", "points", "plain"]
"""`share`: in [0, 1], printed in percent. `points`: a difference of shares. `plain`: printed as it is."""


@dataclass(frozen=True)
class Meaning:
    label: str
    note: str = ""
    better: int = 1
    """+1 when a rise is good, -1 when a fall is, 0 when neither"""
    unit: Unit = "share"


CRITIC, POLICY, OTHER = "As a critic", "As a policy", "Other figures"
CRITIC_METRICS = {
    "accuracy": Meaning("Accuracy", "the verdict is the label; each pair in both orders"),
    "accuracy_both_orders": Meaning("Accuracy, both orders", "right in one order and in the other"),
    "swap_consistency": Meaning("Swap consistency", "the same response is taken in both orders"),
    "position_bias": Meaning("Position bias", "-1 always the second place, 0 none, 1 always the first", 0, "plain"),
    "accuracy_better_first": Meaning("Accuracy, better one first"),
    "accuracy_better_second": Meaning("Accuracy, better one second"),
    "accuracy_readable": Meaning("Accuracy among readable verdicts"),
    "format_rate": Meaning("Form holds", "a think block, then one boxed verdict"),
    "parse_failures": Meaning("Unparsed", "answers without a readable verdict", -1),
    "request_failures": Meaning("Unanswered", "requests that failed; they count nowhere else", -1),
}
POLICY_METRICS = {
    "greedy": Meaning("Greedy answer is right"),
    "sampled": Meaning("Sampled answer is right", "mean over samples at temperature 1"),
    "greedy_format_rate": Meaning("Form holds, greedy"),
    "sampled_format_rate": Meaning("Form holds, sampled"),
}
BEST_OF_METRICS = {
    "knock_out": Meaning("Picked by knock-out", "the model judges its own answers, two at a time"),
    "one_sample": Meaning("One sample", "no picking"),
    "majority": Meaning("Majority"),
    "oracle": Meaning("Oracle", "right whenever any candidate is right"),
    "knock_out_minus_one_sample": Meaning("Knock-out less one sample", "paired by picture", unit="points"),
    "knock_out_minus_majority": Meaning("Knock-out less majority", "paired by picture", unit="points"),
    "knock_out_minus_greedy": Meaning("Knock-out less greedy", "paired by picture", unit="points"),
}
# The tiles on top of the page: name patterns, the first metric that fits each.
HEADLINES = (r"critic/accuracy", r"critic/accuracy_both_orders", r"policy/greedy", r"best_of_\d+/knock_out")


@dataclass
class Cell:
    value: str
    interval: str
    n: str
    bar: tuple[float, float, float] | None
    """(low, value, high) in [0, 1] for the interval plot"""


@dataclass
class Row:
    name: str
    group: str
    meaning: Meaning
    cells: list[Cell | None]
    change: str
    trend: str
    """`good` or `bad` where the intervals of the first and the last evaluation lie apart; else empty"""


def place_of(name: str) -> tuple[int, int, str, Meaning]:
    """(rank of its group, rank in the group, title of the group, meaning) of a metric.

    >>> place_of("best_of_8/oracle")[2:]
    ('Best of 8', Meaning(label='Oracle', note='right whenever any candidate is right', better=1, unit='share'))
    >>> place_of("critic/parse_failures/no_box")[3].label
    'Unparsed: no_box'
    """
    head, _, tail = name.partition("/")
    best_of = re.fullmatch(r"best_of_(\d+)(_other)?", head)
    if best_of:
        group = f"Best of {best_of[1]}" + (", another policy's candidates" if best_of[2] else "")
        listed, rank = BEST_OF_METRICS, 3 if best_of[2] else 2
    else:
        groups = {"critic": (CRITIC_METRICS, 0, CRITIC), "policy": (POLICY_METRICS, 1, POLICY)}
        listed, rank, group = groups.get(head, ({}, 9, OTHER))
    names = list(listed)
    if tail in listed:
        return rank, names.index(tail), group, listed[tail]
    whole, _, part = tail.partition("/")
    if whole in listed and part:
        return rank, names.index(whole), group, replace(listed[whole], label=f"{listed[whole].label}: {part}", note="")
    return rank, len(names), group, Meaning(name, better=0, unit="plain")


def _printed(value: float | None, unit: Unit) -> str:
    if unit == "points" and value is not None:
        return f"{100 * value:+.1f}"
    return number(value, percent=unit == "share")


def _cell(estimate: Estimate | None, unit: Unit) -> Cell | None:
    if estimate is None or estimate.value is None:
        return None
    low, high = estimate.low, estimate.high
    value = _printed(estimate.value, unit) + (" points" if unit == "points" else "")
    # One unit at the end serves both ends.
    interval = "" if low is None or high is None else f"{_printed(low, unit)} to {_printed(high, unit)}"
    interval = interval.replace(" % to", " to")
    bar = None
    if unit == "share" and low is not None and high is not None and 0 <= low <= estimate.value <= high <= 1:
        bar = (low, estimate.value, high)
    return Cell(value, interval, "" if estimate.n is None else f"{estimate.n:,}", bar)


def _change(first: Estimate | None, last: Estimate | None, meaning: Meaning) -> tuple[str, str]:
    if first is None or last is None or first.value is None or last.value is None:
        return "", ""
    change = last.value - first.value
    text = f"{change:+.3g}" if meaning.unit == "plain" else f"{100 * change:+.1f} points"
    if None in (first.low, first.high, last.low, last.high) or not meaning.better:
        return text, ""
    up = (last.low or 0) > (first.high or 0)
    down = (last.high or 0) < (first.low or 0)
    return text, "" if not (up or down) else "good" if up == (meaning.better > 0) else "bad"


def metric_groups(evaluations: dict[str, Evaluation]) -> dict[str, list[Row]]:
    """Group -> rows with one cell an evaluation; the change is from the first evaluation to the last."""
    present = {name for evaluation in evaluations.values() for name in evaluation.metrics}
    groups: dict[str, list[Row]] = {}
    for name in sorted(present, key=lambda name: (*place_of(name)[:3], name)):
        _, _, group, meaning = place_of(name)
        estimates = [evaluation.metrics.get(name) for evaluation in evaluations.values()]
        change, trend = _change(estimates[0], estimates[-1], meaning) if len(estimates) > 1 else ("", "")
        cells = [_cell(estimate, meaning.unit) for estimate in estimates]
        groups.setdefault(group, []).append(Row(name, group, meaning, cells, change, trend))
    return groups


def headlines(groups: dict[str, list[Row]]) -> list[Row]:
    """The rows shown as tiles."""
    rows = [row for listed in groups.values() for row in listed]
    fits = [[row for row in rows if re.fullmatch(pattern, row.name)][:1] for pattern in HEADLINES]
    return [row for found in fits for row in found]


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def flat(settings: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return rows
