"""Judgements as cards: a pair in one order, and the verdicts of all judges on it.

A judgement is right, wrong, unparsed (no readable verdict) or unanswered (the request failed), with the meanings of
`judging.metrics`. A pair is inconsistent when the verdicts of its two orders contradict each other; that is not known
when the other order was not judged or is unparsed.
"""

from collections import Counter
from dataclasses import dataclass, field

from recipe.critic_r1.judging.metrics import OPPOSITE
from recipe.critic_r1.judging.pairwise import REQUEST_FAILED
from recipe.critic_r1.report.records import JudgementLine


@dataclass
class Side:
    """One judge's verdict on a card."""

    verdict: str
    kind: str
    """`right`, `wrong`, `unparsed` or `unanswered`"""
    reason: str
    response: str
    other: str | None = None
    """Verdict in the other order: `""` when unparsed, None when not judged"""
    flips: bool | None = None
    """Whether the two orders contradict each other; None when not known"""


@dataclass
class Card:
    pair_id: str
    order: str
    question: str
    response_1: str
    response_2: str
    ground_truth: str
    image: str
    """`image_blake3`; empty when none is named"""
    category: str
    sides: dict[str, Side] = field(default_factory=dict)


Key = tuple[str, str, int]


def verdict_of(judgement: JudgementLine) -> str:
    """`1`, `2`, `tie` (for other tasks, their answer); empty without a readable verdict."""
    pred = judgement.pred.strip().lower()
    # Rollouts of other tasks (a score, a rank) have other labels.
    pairwise = judgement.ground_truth.strip().lower() in OPPOSITE
    return "" if pairwise and pred not in OPPOSITE else pred


def kind_of(judgement: JudgementLine) -> str:
    """`right`, `wrong`, `unparsed` or `unanswered`."""
    verdict = verdict_of(judgement)
    if judgement.error or judgement.reason == REQUEST_FAILED:
        return "unanswered"
    if not verdict:
        return "unparsed"
    truth = judgement.ground_truth.strip().lower()
    right = judgement.correct if judgement.correct is not None else verdict == truth
    return "right" if right else "wrong"


def _keyed(judgements: list[JudgementLine]) -> dict[Key, JudgementLine]:
    """Judgements by pair, order and number, since a pair may be judged several times (votes)."""
    turns: Counter[tuple[str, str]] = Counter()
    keyed: dict[Key, JudgementLine] = {}
    for judgement in judgements:
        place = (judgement.pair_id, judgement.order)
        keyed[(*place, turns[place])] = judgement
        turns[place] += 1
    return keyed


def contradict(verdict: str, other: str) -> bool | None:
    """Whether the verdicts in a pair's two orders contradict each other; None when one is unparsed.

    >>> contradict("1", "2"), contradict("1", "1"), contradict("tie", "tie"), contradict("1", "tie")
    (False, True, False, True)
    """
    if verdict not in OPPOSITE or other not in OPPOSITE:
        return None
    return OPPOSITE[verdict] != other


def make_cards(judgements: dict[str, list[JudgementLine]]) -> list[Card]:
    """Cards from the judgements of several judges (name -> list), in the order of the files."""
    cards: dict[Key, Card] = {}
    for name, listed in judgements.items():
        keyed = _keyed(listed)
        orders: dict[tuple[str, int], dict[str, str]] = {}
        for (pair_id, order, turn), judgement in keyed.items():
            orders.setdefault((pair_id, turn), {})[order] = verdict_of(judgement)
        for key, judgement in keyed.items():
            pair_id, order, turn = key
            others = [verdict for name_, verdict in orders[(pair_id, turn)].items() if name_ != order]
            verdict = verdict_of(judgement)
            side = Side(verdict, kind_of(judgement), judgement.reason, judgement.response)
            if len(others) == 1:
                side.other, side.flips = others[0], contradict(verdict, others[0])
            card = cards.setdefault(
                key,
                Card(
                    pair_id,
                    order,
                    judgement.question,
                    judgement.response_1,
                    judgement.response_2,
                    judgement.ground_truth.strip().lower(),
                    judgement.image_blake3,
                    judgement.category,
                ),
            )
            card.sides[name] = side
    return list(cards.values())
