"""Metrics of a board as table rows and tiles: values and changes with intervals, and whether a change is good."""

import re
from dataclasses import dataclass

from recipe.critic_r1.judging.metrics import CATEGORY_FIGURES
from recipe.critic_r1.report.charts import number
from recipe.critic_r1.report.comparisons import Board, Column
from recipe.critic_r1.report.differences import Difference, over_runs
from recipe.critic_r1.report.metric_labels import CRITIC, HEADLINES, Meaning, Place, Unit, place_of, policy_place
from recipe.critic_r1.report.records import MetricValue

CATEGORY = "category/"
MOST_TILES = 4


@dataclass
class MetricChange:
    text: str
    interval: str
    trend: str
    """`good` or `bad` if the interval excludes zero and one direction is better; else empty"""
    word: str
    """`better`, `worse`, `rose`, `fell`, `no clear change`; empty without an interval"""
    paired: bool


@dataclass
class Cell:
    value: str
    interval: str
    n: str
    bar: tuple[float, float, float] | None
    """(low, value, high) in [0, 1] for the interval plot"""
    change: MetricChange | None = None


@dataclass
class MetricRow:
    name: str
    group: str
    meaning: Meaning
    cells: list[Cell | None]
    mean: MetricChange | None = None
    """Mean change over the runs that differ only in their seed"""


def _printed(value: float | None, unit: Unit) -> str:
    if unit == "points" and value is not None:
        return f"{100 * value:+.1f}"
    return number(value, percent=unit == "share")


def _interval(low: float | None, high: float | None, unit: Unit) -> str:
    if low is None or high is None:
        return ""
    # The unit is printed once.
    return f"{_printed(low, unit)} to {_printed(high, unit)}".replace(" % to", " to")


def _cell(estimate: MetricValue | None, unit: Unit) -> Cell | None:
    if estimate is None or estimate.value is None:
        return None
    low, high = estimate.low, estimate.high
    value = _printed(estimate.value, unit) + (" points" if unit == "points" else "")
    bar = None
    if unit == "share" and low is not None and high is not None and 0 <= low <= estimate.value <= high <= 1:
        bar = (low, estimate.value, high)
    return Cell(value, _interval(low, high, unit), "" if estimate.n is None else f"{estimate.n:,}", bar)


def change_of(difference: Difference | None, meaning: Meaning) -> MetricChange | None:
    """A change as printed on the page."""
    if difference is None:
        return None
    shares = meaning.unit != "plain"
    text = f"{100 * difference.value:+.1f} points" if shares else f"{difference.value:+.3g}"
    if difference.low is None or difference.high is None:
        return MetricChange(text, "", "", "", difference.paired)
    ends = [f"{100 * end:+.1f}" if shares else f"{end:+.3g}" for end in (difference.low, difference.high)]
    way = difference.sure * meaning.better
    trend = "good" if way > 0 else "bad" if way < 0 else ""
    word = {"good": "better", "bad": "worse"}.get(trend) or {1: "rose", -1: "fell"}.get(difference.sure)
    return MetricChange(text, f"{ends[0]} to {ends[1]}", trend, word or "no clear change", difference.paired)


def _estimates(board: Board, name: str) -> list[MetricValue | None]:
    return [column.measured.evaluation.metrics.get(name) for column in board.columns]


def metric_groups(board: Board) -> dict[str, list[MetricRow]]:
    """Group -> rows with one cell per column, without the metrics of `category_tables`."""
    present = {name for column in board.columns for name in column.measured.evaluation.metrics}
    rows: list[tuple[Place, MetricRow]] = []
    for name in present:
        if name.startswith(CATEGORY):
            continue
        place, group, meaning = place_of(name)
        estimates = _estimates(board, name)
        if board.kind == "policy":
            values = [one.value for one in estimates if one is not None and one.value is not None]
            place, group, meaning = policy_place(name, values)
        cells = [_cell(estimate, meaning.unit) for estimate in estimates]
        if not any(cells):
            continue  # such as length bias when all responses are equally long
        for cell, column in zip(cells, board.columns, strict=True):
            if cell is not None:
                cell.change = change_of(column.changes.get(name), meaning)
        changes = [column.changes[name] for column in board.repeats if name in column.changes]
        mean = change_of(over_runs(changes), meaning) if len(changes) == len(board.repeats) else None
        rows.append((place, MetricRow(name, group, meaning, cells, mean)))
    groups: dict[str, list[MetricRow]] = {}
    for _, row in sorted(rows, key=lambda item: item[0]):
        groups.setdefault(row.group, []).append(row)
    return groups


def headlines(board: Board, groups: dict[str, list[MetricRow]]) -> list[MetricRow]:
    """The rows shown as tiles, each once."""
    rows = [row for listed in groups.values() for row in listed]
    found: list[MetricRow] = []
    for pattern in HEADLINES[board.kind]:
        found += [row for row in rows if row not in found and re.fullmatch(pattern, row.name)][:1]
    return found[:MOST_TILES]


@dataclass
class CategoryTable:
    """Every metric in every category, of one column."""

    label: str
    metrics: list[Meaning]
    rows: list[tuple[str, list[Cell | None]]]


def category_tables(board: Board) -> list[CategoryTable]:
    """A table for each column that has categories (`category/<name>/<metric>`)."""
    tables = []
    for column in board.columns:
        cells = _by_category(column)
        if cells:
            metrics = [metric for metric in CATEGORY_FIGURES if any(metric in row for row in cells.values())]
            listed = [(name, [row.get(metric) for metric in metrics]) for name, row in sorted(cells.items())]
            tables.append(CategoryTable(column.label, [CRITIC[metric] for metric in metrics], listed))
    return tables


def _by_category(column: Column) -> dict[str, dict[str, Cell | None]]:
    cells: dict[str, dict[str, Cell | None]] = {}
    for name, estimate in column.measured.evaluation.metrics.items():
        # The name of a category may contain a slash, that of a metric does not.
        category, _, metric = name.removeprefix(CATEGORY).rpartition("/")
        if name.startswith(CATEGORY) and category and metric in CATEGORY_FIGURES:
            cell = cells.setdefault(category, {})[metric] = _cell(estimate, CRITIC[metric].unit)
            if cell is not None:
                cell.change = change_of(column.changes.get(name), CRITIC[metric])
    return cells
