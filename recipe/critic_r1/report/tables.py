"""Numbers of the evaluations as table rows and tiles: labels, units and the order in which a reader wants them.

Names and meaning of the metrics belong to the evaluation that computed them; here they only get a label. A metric that
is not listed is shown all the same, under its own name, after the listed ones.
"""

from dataclasses import dataclass

from recipe.critic_r1.report.charts import number
from recipe.critic_r1.report.run_files import Estimate, Evaluation


@dataclass(frozen=True)
class Meaning:
    label: str
    note: str
    group: str
    better: int = 1
    """+1 when a rise is good, -1 when a fall is, 0 when neither"""
    share: bool = True
    """a value in [0, 1], printed in percent; its change in points"""


CRITIC, POLICY, SELF = "As a critic", "As a policy", "As its own critic"
OTHER = "Other figures"
METRICS = {
    "critic/accuracy": Meaning("Accuracy", "verdicts that match the label, both orders counted", CRITIC),
    "critic/accuracy_both_orders": Meaning("Accuracy in both orders", "pairs right in one order and in the other", CRITIC),
    "critic/swap_consistency": Meaning("Swap consistency", "pairs whose two verdicts name the same response", CRITIC),
    "critic/position_bias": Meaning("Position bias", "0 none, 1 always the same place", CRITIC, better=-1, share=False),
    "critic/format_rate": Meaning("Form holds", "think block, then one boxed verdict", CRITIC),
    "critic/parse_failure": Meaning("Unparsed", "responses without a readable verdict", CRITIC, better=-1),
    "policy/greedy": Meaning("Greedy answer", "answered with the likeliest token each time", POLICY),
    "policy/sampled": Meaning("Sampled answer", "mean over samples", POLICY),
}
# At most this many tiles on top of the page: the first of these that the run has.
HEADLINES = ("critic/accuracy", "critic/swap_consistency", "policy/greedy", "policy/sampled")


@dataclass
class Cell:
    value: str
    interval: str
    n: str
    bar: tuple[float, float, float] | None
    """(low, value, high) in [0, 1] for the little interval plot"""


@dataclass
class Row:
    name: str
    meaning: Meaning
    cells: list[Cell | None]
    change: str
    trend: str
    """`good`, `bad` or empty when the change is none or has no direction"""


def meaning_of(name: str) -> Meaning:
    return METRICS.get(name, Meaning(name, "", OTHER, better=0, share=False))


def _cell(estimate: Estimate | None, share: bool) -> Cell | None:
    if estimate is None or estimate.value is None:
        return None
    low, high = estimate.low, estimate.high
    interval = "" if low is None or high is None else f"{number(low, share)} to {number(high, share)}"
    bar = None
    if share and low is not None and high is not None and 0 <= low <= high <= 1:
        bar = (low, min(max(estimate.value, 0.0), 1.0), high)
    return Cell(number(estimate.value, share), interval, "" if estimate.n is None else f"{estimate.n:,}", bar)


def _change(first: Estimate | None, last: Estimate | None, meaning: Meaning) -> tuple[str, str]:
    if first is None or last is None or first.value is None or last.value is None:
        return "", ""
    change = last.value - first.value
    text = f"{100 * change:+.1f} points" if meaning.share else f"{change:+.3g}"
    if abs(change) < 5e-4 or not meaning.better:
        return text, ""
    return text, "good" if change * meaning.better > 0 else "bad"


def metric_groups(evaluations: dict[str, Evaluation]) -> dict[str, list[Row]]:
    """Group -> rows with one cell an evaluation; the change is from the first evaluation to the last."""
    present = {name for evaluation in evaluations.values() for name in evaluation.metrics}
    ordered = [name for name in METRICS if name in present] + sorted(present - set(METRICS))
    groups: dict[str, list[Row]] = {}
    for name in ordered:
        meaning = meaning_of(name)
        estimates = [evaluation.metrics.get(name) for evaluation in evaluations.values()]
        change, trend = _change(estimates[0], estimates[-1], meaning) if len(estimates) > 1 else ("", "")
        cells = [_cell(estimate, meaning.share) for estimate in estimates]
        groups.setdefault(meaning.group, []).append(Row(name, meaning, cells, change, trend))
    return groups


def headlines(groups: dict[str, list[Row]]) -> list[Row]:
    """The rows shown as tiles."""
    rows = {row.name: row for listed in groups.values() for row in listed}
    return [rows[name] for name in HEADLINES if name in rows]


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
