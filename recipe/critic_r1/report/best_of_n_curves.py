"""Best-of-N curves and costs: what choosing among N answers gains, and what it costs.

All selectors pick from the same candidates, so the curves of a chart differ by the selection alone. All charts have the
same y axis. With several columns, one more chart compares their knock-outs.
"""

from dataclasses import dataclass
from typing import Any

from recipe.critic_r1.report.charts import Chart, ChartLine, line_chart, number
from recipe.critic_r1.report.comparisons import Board
from recipe.critic_r1.report.records import CurvePoint

# Selectors in the order of the legend; others follow.
SELECTORS = {
    "knock_out": "knock-out by its own critic",
    "one_sample": "one sample",
    "majority": "majority",
    "oracle": "oracle",
    "weighted_knock_out": "weighted knock-out",
    "round_robin": "round robin",
}
MAIN = "knock_out"
Curves = dict[str, list[CurvePoint]]
"""selector -> points over N"""


def _pools(boards: list[Board]) -> dict[tuple[str, str], Curves]:
    """(pool, column) -> its curves, sorted by pool."""
    pools: dict[tuple[str, str], Curves] = {}
    for board in boards:
        for column in board.columns:
            for key, points in column.measured.evaluation.curves.items():
                pool, _, selector = key.rpartition("/")
                pools.setdefault((pool, column.label), {})[selector] = points
    return dict(sorted(pools.items(), key=lambda item: item[0][0]))


def _is_other(pool: str) -> bool:
    return pool.endswith("_other")


def _line(label: str, points: list[CurvePoint], ns: list[int]) -> ChartLine:
    at = {point.n_candidates: point for point in points}
    columns = [[getattr(at.get(n), part, None) for n in ns] for part in ("value", "low", "high")]
    return ChartLine(label, *columns)


def _sizes(listed: list[list[CurvePoint]]) -> list[int]:
    return sorted({point.n_candidates for points in listed for point in points})


def best_of_n_charts(boards: list[Board]) -> list[Chart]:
    """The knock-outs of all columns if there are several, then one chart per pool and column."""
    pools = {key: curves for key, curves in _pools(boards).items() if curves}
    ends = [
        value
        for curves in pools.values()
        for points in curves.values()
        for point in points
        for value in (point.low, point.value, point.high)
        if value is not None
    ]
    if not ends:
        return []
    pad = 0.05 * (max(ends) - min(ends)) or 0.05
    own = {label: curves[MAIN] for (pool, label), curves in pools.items() if MAIN in curves and not _is_other(pool)}
    options: dict[str, Any] = {
        "unit": "share of correct answers",
        "percent": True,
        "floor": max(0.0, min(ends) - pad),
        "ceiling": min(1.02, max(ends) + pad),
        "smooth": False,
        "doubling": True,
        # Three in a row have the width of training curves.
        "wide": len(pools) + (len(own) > 1) < 3,
        "x_name": "candidates",
    }
    charts = []
    if len(own) > 1:
        ns = _sizes(list(own.values()))
        lines = [_line(label, points, ns) for label, points in own.items()]
        note = "Bands: 95 % intervals. Each picks among its own answers."
        charts.append(line_chart("knockouts", "Knock-out, side by side", ns, lines, note=note, **options))
    several = len({label for _, label in pools}) > 1
    for index, ((pool, label), curves) in enumerate(pools.items()):
        ns = _sizes(list(curves.values()))
        order = [name for name in SELECTORS if name in curves] + sorted(set(curves) - set(SELECTORS))
        lines = [_line(SELECTORS.get(name, name), curves[name], ns) for name in order]
        note = ("The candidates are another policy's. " if _is_other(pool) else "") + "Bands: 95 % intervals."
        # A label may come from a file: the page escapes it, the image does not.
        chart = line_chart(f"bestof{index}", "Best of N", ns, lines, note=note, **options)
        if several:
            chart.title = f"Best of N: {label}"
        charts.append(chart)
    return charts


@dataclass
class CostTable:
    """The cost of each N per question, with one selector."""

    label: str
    rows: list[tuple[str, str, str, str, str]]
    """(N, correct answers, judgements, tokens, tokens per point gained over one sample)"""


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def cost_tables(boards: list[Board]) -> list[CostTable]:
    """One table for every tournament whose points have costs."""
    tables = []
    for (_, label), curves in _pools(boards).items():
        for selector, points in curves.items():
            # Selectors without judgements have no cost to weigh.
            if not any(point.judgements for point in points):
                continue
            rows = [
                (
                    str(point.n_candidates),
                    number(point.value, percent=True),
                    number(point.judgements),
                    _whole(point.tokens),
                    _whole(point.tokens_per_point),
                )
                for point in sorted(points, key=lambda point: point.n_candidates)
            ]
            tables.append(CostTable(f"{SELECTORS.get(selector, selector)}, {label}", rows))
    return tables


def bills(boards: list[Board]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The total cost of each best-of-N: captions of the columns, and rows of a name and a cost per column."""
    found: dict[str, dict[str, float | None]] = {}
    for column in (column for board in boards for column in board.columns):
        evaluation = column.measured.evaluation
        for pool, bill in evaluation.bills.items():
            found[column.label + (", another policy's candidates" if _is_other(pool) else "")] = bill
        if evaluation.bill:
            found[column.label] = evaluation.bill
    names = dict.fromkeys(name for bill in found.values() for name in bill)
    return list(found), [
        (name.replace("_", " "), [_whole(bill.get(name)) for bill in found.values()]) for name in names
    ]
