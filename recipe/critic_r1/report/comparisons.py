"""Which metrics are shown side by side: columns, and boards of columns that may be compared.

Values of a metric are comparable only when they were measured on the same items. So critic benchmarks share a board
when they judged the same pairs, best-of-N runs when they answered the same questions, policy evaluations by task.
Training runs share one board, but each is compared with its own start, since every run has its own held-out pairs.
"""

from dataclasses import dataclass, field
from typing import Any

from recipe.critic_r1.redaction import redact
from recipe.critic_r1.report.differences import Difference, differences
from recipe.critic_r1.report.records import shortened_name
from recipe.critic_r1.report.run_files import Kind, Measured, Run
from recipe.critic_r1.report.run_settings import model_of, repeats

TITLES: dict[Kind, str] = {
    "held-out": "Held-out evaluation",
    "benchmark": "Critic benchmark",
    "best-of-n": "Best of N",
    "policy": "Policy evaluation",
}
MOST_CATEGORIES_NAMED = 4


@dataclass(eq=False)
class Column:
    """One measured set of metrics."""

    label: str
    run: Run
    measured: Measured
    base: "Column | None" = None
    """The column that changes are relative to"""
    changes: dict[str, Difference] = field(default_factory=dict)
    """metric -> change from the base"""
    is_start: bool = False
    """Whether it is the base of another column of the same run"""
    duel: dict[str, Any] | None = None
    """McNemar's test against the base: `pairs`, `only_first`, `only_second`, `p_value`, `unanswered`"""


@dataclass
class Board:
    kind: Kind
    title: str
    columns: list[Column]
    repeats: list[Column] = field(default_factory=list)
    """The final columns of runs that differ only in their seed"""
    notes: list[str] = field(default_factory=list)


def _label(run: Run, one: Measured, alone: bool) -> str:
    if alone:
        return one.name or model_of(one.settings) or run.label
    return f"{run.label} · {one.name}" if one.name else run.label


def _title(kind: Kind, measured: Measured) -> str:
    """The kind of evaluation and, if known, its data."""
    if kind == "benchmark":
        pairs = len({one.pair_id for one in measured.judgements})
        names = sorted({one.category for one in measured.judgements if one.category})
        listed = ", ".join(names) if len(names) <= MOST_CATEGORIES_NAMED else f"{len(names)} categories"
        name = redact(shortened_name(str(measured.settings.get("benchmark") or ""))) or listed
        return TITLES[kind] + (f": {name}, {pairs:,} pairs" if pairs else "")
    return TITLES[kind]


def make_boards(runs: list[Run]) -> list[Board]:
    """Boards in reading order; columns in the order of the runs, each compared with the first comparable one."""
    alone = len(runs) == 1
    boards: dict[tuple[Kind, str], Board] = {}
    for run in runs:
        for one in run.measured:
            # Without known items a run is not comparable with any other.
            place = "" if one.kind in ("held-out", "policy") else one.items or f"only {run.label}"
            board = boards.setdefault((one.kind, place), Board(one.kind, _title(one.kind, one), []))
            board.columns.append(Column(_label(run, one, alone), run, one))
    ordered = sorted(boards.values(), key=lambda board: list(TITLES).index(board.kind))
    again = {run.label for run in repeats(runs)}
    for board in ordered:
        for column in board.columns:
            _compare(board, column)
        if board.kind == "held-out":
            last = {column.run.label: column for column in board.columns if column.base and column.run.label in again}
            board.repeats = list(last.values()) if len(last) > 1 else []
    return ordered


def _compare(board: Board, column: Column) -> None:
    first = next((other for other in board.columns if board.kind != "held-out" or other.run is column.run), column)
    if first is column or not (first.measured.evaluation.metrics and column.measured.evaluation.metrics):
        return
    column.base = first
    first.is_start |= first.run is column.run
    column.changes, column.duel, why_not = differences(first.measured, column.measured)
    if why_not:
        board.notes.append(f"{column.label} and {first.label} are not compared pair by pair: {why_not}")
