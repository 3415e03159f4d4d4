"""How good a pairwise judge is, from its judgements in both orders.

A row of numbers that cannot be gamed by position: accuracy where the better response stood first and where it stood
second, the share of pairs judged right in *both* orders, how often a swap changes the mind, and which place wins when
it does. A judge that always answers "1" has an accuracy of 50 %, a consistency of 0 and a position bias of 1.

What is in the denominator is said per figure, since that is where published numbers differ. A request that was not
answered counts nowhere but in `request_failures`. An unreadable verdict counts as not right in the accuracies and has
its own rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.pairwise import Judgement

OPPOSITE = {"1": "2", "2": "1", "tie": "tie"}


def pairwise_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """All figures of a judge, each with its interval over pictures.

    Per judgement (denominator: answered requests, unless said otherwise):
        accuracy: the verdict is the label.
        accuracy_better_first, accuracy_better_second: the same where the better response is shown in that place.
        accuracy_readable: the same among readable verdicts.
        format_rate: responses that follow the grammar to the letter.
        parse_failures, parse_failures/<reason>: no readable verdict.
        request_failures: requests without an answer, among all.
    Per pair:
        accuracy_both_orders: right in both orders; among pairs answered in both orders.
        swap_consistency: the same response is taken in both orders; among pairs readable in both orders.
        position_bias: pairs in which the first place wins both times, minus those in which the second does, in
            [-1, 1]; among pairs readable in both orders.

    Raises:
        ValueError: no judgements, or one order of a pair twice.
    """
    if not judgements:
        raise ValueError("there are no judgements to measure")
    rows = ClusterBootstrap([j.task.picture_sha256 for j in judgements], seed=seed)
    answered = np.array([j.answered for j in judgements])
    readable = np.array([j.readable for j in judgements])
    correct = np.array([j.correct for j in judgements])
    truth = np.array([j.task.ground_truth for j in judgements])
    reasons = np.array([j.reason for j in judgements])
    unreadable = answered & ~readable
    metrics = {
        "accuracy": rows.rate(correct, answered),
        "accuracy_better_first": rows.rate(correct, answered & (truth == "1")),
        "accuracy_better_second": rows.rate(correct, answered & (truth == "2")),
        "accuracy_readable": rows.rate(correct, readable),
        "format_rate": rows.rate([j.well_formed for j in judgements], answered),
        "parse_failures": rows.rate(unreadable, answered),
    }
    for reason in sorted(set(reasons[unreadable].tolist())):
        metrics[f"parse_failures/{reason}"] = rows.rate(unreadable & (reasons == reason), answered)
    metrics["request_failures"] = rows.rate(~answered)

    pairs = both_orders(judgements)
    if not pairs:
        return metrics
    over_pairs = ClusterBootstrap([first.task.picture_sha256 for first, _ in pairs], seed=seed)
    both_answered = [a.answered and b.answered for a, b in pairs]
    both_readable = [a.readable and b.readable for a, b in pairs]
    habit = [(a.pred == b.pred == "1") - (a.pred == b.pred == "2") for a, b in pairs]
    metrics |= {
        "accuracy_both_orders": over_pairs.rate([a.correct and b.correct for a, b in pairs], both_answered),
        "swap_consistency": over_pairs.rate([consistent(a, b) for a, b in pairs], both_readable),
        "position_bias": over_pairs.rate(habit, both_readable),
    }
    return metrics


def both_orders(judgements: Sequence[Judgement]) -> list[tuple[Judgement, Judgement]]:
    """The pairs that were judged in both orders, as (order 0, order 1), in order of first appearance.

    Raises:
        ValueError: one order of a pair stands there twice.
    """
    found: dict[str, dict[int, Judgement]] = {}
    for judgement in judgements:
        orders = found.setdefault(judgement.task.pair_id, {})
        if judgement.task.order in orders:
            raise ValueError(f"pair {judgement.task.pair_id} was judged twice in order {judgement.task.order}")
        orders[judgement.task.order] = judgement
    return [(orders[0], orders[1]) for orders in found.values() if 0 in orders and 1 in orders]


def consistent(first: Judgement, second: Judgement) -> bool:
    """Whether two judgements of one pair in opposite orders take the same response; unreadable ones never do."""
    return first.pred is not None and second.pred is not None and OPPOSITE[first.pred] == second.pred
