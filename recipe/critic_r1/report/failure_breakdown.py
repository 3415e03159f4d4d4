"""Where a judge fails: outcomes by category and by the position of the better response, as stacked bars.

An average hides that a judge guesses on one kind of question, or prefers a position. A click on a bar sets the same
filter in the list of judgements.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from recipe.critic_r1.report.comparisons import Board
from recipe.critic_r1.report.judgements import kind_of
from recipe.critic_r1.report.records import JudgementLine

KINDS = ("right", "wrong", "unparsed", "unanswered")
PLACES = {"1": "Better response first", "2": "Better response second", "tie": "Tie"}
# The largest ones are shown.
MOST_CATEGORIES = 16


@dataclass
class Share:
    """One judge's outcomes in one slice."""

    name: str
    """The judge"""
    n: int
    parts: list[tuple[str, float]]
    """(kind, share in percent), without empty ones"""
    right: str
    """Share that is correct among the answered, `–` when none was answered"""


@dataclass
class Slice:
    title: str
    facet: str
    """Filter of the page: `category`, `label`, or empty for all"""
    value: str
    shares: list[Share | None]


@dataclass
class Failures:
    """One board's slices, with a column per judge."""

    names: list[str]
    slices: list[Slice]


def _share(name: str, judgements: list[JudgementLine]) -> Share | None:
    if not judgements:
        return None
    kinds = Counter(kind_of(one) for one in judgements)
    parts = [(kind, 100 * kinds[kind] / len(judgements)) for kind in KINDS if kinds[kind]]
    answered = len(judgements) - kinds["unanswered"]
    right = f"{100 * kinds['right'] / answered:.1f} %" if answered else "–"
    return Share(name, len(judgements), parts, right)


def failures(board: Board) -> Failures | None:
    """Slices of a board; None when no column has judgements. Categories start with the worst of the last column."""
    judges = {column.label: column.measured.judgements for column in board.columns if column.measured.judgements}
    if not judges:
        return None
    slices = [Slice("All", "", "", [_share(name, listed) for name, listed in judges.items()])]
    for facet, key in (("label", _label), ("category", _category)):
        parts: dict[str, dict[str, list[JudgementLine]]] = defaultdict(lambda: {name: [] for name in judges})
        for name, listed in judges.items():
            for one in listed:
                parts[key(one)][name].append(one)
        if len(parts) < 2:
            continue
        sizes = Counter({value: sum(map(len, by_judge.values())) for value, by_judge in parts.items()})
        kept = [
            Slice(
                PLACES.get(value, value) if facet == "label" else value or "no category",
                facet,
                value,
                [_share(name, listed) for name, listed in parts[value].items()],
            )
            for value, _ in sizes.most_common(MOST_CATEGORIES)
        ]
        slices += sorted(kept, key=_rank if facet == "category" else lambda part: part.value)
    return Failures(list(judges), slices)


def _label(one: JudgementLine) -> str:
    return one.ground_truth.strip().lower()


def _category(one: JudgementLine) -> str:
    return one.category


def _rank(part: Slice) -> tuple[float, str]:
    last = part.shares[-1]
    return (dict(last.parts).get("right", 0.0) if last else 0.0), part.value
