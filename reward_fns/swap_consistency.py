"""A bonus or penalty for judging a pair alike in both orders.

A reward sees one response, but consistency is a property of two groups of rollouts. So the trainer, which sees the
whole batch, computes it from the sequences below. This file needs neither verl nor torch nor numpy.

Each rollout is compared with the rollouts of the *other* order of its pair. Its agreement is the share of them that
prefer the same response (not the same number: "1" in one order is "2" in the other; a tie is a tie). A bonus that is
the same for a whole group would cancel in GRPO, which subtracts the group's mean; agreement differs within a group as
soon as its verdicts do. For the same reason bonus and penalty lead to the same advantages; they differ in the logged
reward, and in algorithms that do not subtract a mean.

By default only right verdicts gain by agreeing (`only_right`): otherwise two groups could agree on being wrong. An
unreadable verdict agrees with nothing, so it does not avoid a penalty.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_SWAPPED = {"1": "2", "2": "1", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What the trainer writes back, and what it logs."""

    scores: list[float]
    """Adjusted score of each rollout, clipped to [0, 1 + weight]; unchanged for a pair seen in one order only."""

    agreement: list[float | None]
    """Agreement of each rollout with the other order, in [0, 1]; None without the other order."""

    metrics: dict[str, float]
    """pairs: pairs seen in both orders; consistent: share of them whose majority verdicts prefer the same response;
    agreement, adjustment: means over their rollouts. Empty when no pair is seen in both orders."""


def preferred(choice: str, order: int) -> str | None:
    """The preferred response in the order of the source ("1", "2" or "tie"); None for an unreadable verdict.

    >>> preferred("1", 0), preferred("1", 1), preferred("tie", 1), preferred("", 0)
    ('1', '2', 'tie', None)
    """
    if choice not in _SWAPPED:
        return None
    return _SWAPPED[choice] if order else choice


def adjust(
    pair_ids: Sequence[str],
    orders: Sequence[int],
    choices: Sequence[str],
    truths: Sequence[str],
    scores: Sequence[float],
    *,
    weight: float = 0.1,
    mode: Literal["bonus", "penalty"] = "bonus",
    only_right: bool = True,
) -> SwapResult:
    """Adjust the scores of a batch. All sequences have one entry for each rollout, in the same sequence.

    Args:
        pair_ids: which pair a rollout judges.
        orders: 0 as listed by the source, 1 swapped.
        choices: the verdict as read, "" when unreadable (`pred` of preference.compute_score).
        truths: the label as shown, "1", "2" or "tie".
        scores: rewards in [0, 1].
        weight: the largest change of a score, 0 or more.
        mode: bonus adds weight * agreement; penalty subtracts weight * (1 - agreement).
        only_right: agreement counts for right verdicts only.

    Raises:
        ValueError: for sequences of different lengths, an order other than 0 or 1, or a bad option.

    >>> adjust(["p"] * 2, [0, 1], ["1", "2"], ["1", "2"], [1.0, 1.0], weight=0.2).scores
    [1.2, 1.2]
    """
    n = len(pair_ids)
    if {len(orders), len(choices), len(truths), len(scores)} != {n}:
        raise ValueError("pair_ids, orders, choices, truths and scores must have one entry for each rollout")
    if weight < 0 or mode not in ("bonus", "penalty"):
        raise ValueError(f"weight must not be negative and mode be bonus or penalty: got {weight!r}, {mode!r}")
    votes: dict[tuple[str, int], Counter[str | None]] = defaultdict(Counter)
    picks: list[str | None] = []
    for pair_id, order, choice in zip(pair_ids, orders, choices, strict=True):
        if order not in (0, 1):
            raise ValueError(f"order must be 0 or 1, not {order!r} (pair {pair_id})")
        picks.append(preferred(choice, int(order)))
        votes[pair_id, int(order)][picks[-1]] += 1

    adjusted: list[float] = []
    agreement: list[float | None] = []
    for pair_id, order, choice, truth, pick, score in zip(
        pair_ids, orders, choices, truths, picks, scores, strict=True
    ):
        other = votes.get((pair_id, 1 - int(order)))
        if not other:
            adjusted.append(float(score))
            agreement.append(None)
            continue
        counts = pick is not None and (choice == truth or not only_right)
        share = other[pick] / other.total() if counts else 0.0
        change = weight * share if mode == "bonus" else -weight * (1.0 - share)
        adjusted.append(max(0.0, float(score) + change))
        agreement.append(share)

    known = [share for share in agreement if share is not None]
    metrics: dict[str, float] = {}
    if known:
        both = [pair_id for pair_id, order in votes if order == 0 and (pair_id, 1) in votes]
        consistent = [_majority(votes[pair_id, 0]) for pair_id in both]
        same = sum(
            first is not None and first == _majority(votes[pair_id, 1])
            for pair_id, first in zip(both, consistent, strict=True)
        )
        changes = [a - float(b) for a, b, s in zip(adjusted, scores, agreement, strict=True) if s is not None]
        metrics = {
            "pairs": float(len(both)),
            "consistent": same / len(both),
            "agreement": sum(known) / len(known),
            "adjustment": sum(changes) / len(changes),
        }
    return SwapResult(adjusted, agreement, metrics)


def _majority(votes: Counter[str | None]) -> str | None:
    """What most rollouts prefer; None when that is unreadable or the vote is tied."""
    (best, most), *others = votes.most_common(2)
    return None if others and others[0][1] == most else best
