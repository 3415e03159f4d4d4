"""Metrics of a pairwise judge, from its judgements in both orders.

They expose position bias: accuracy where the better response was shown first and where it was shown second, the share
of pairs correct in *both* orders, how often a swap flips the verdict, and which position wins when it does. A judge
that always answers "1" has an accuracy of 50 %, a consistency of 0 and a position bias of 1.

Each metric states its denominator, since that is where published numbers differ. A failed request counts only in
`request_failures`. An unreadable verdict counts as incorrect in the accuracies and has its own rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.pairwise import Judgement

OPPOSITE = {"1": "2", "2": "1", "tie": "tie"}

CATEGORY_FIGURES = ("accuracy", "parse_failures", "accuracy_both_orders", "swap_consistency", "position_bias")
"""Metrics that are reported per category."""

Observed = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""A metric before averaging: per judgement (or pair) its value and whether it is in the denominator."""


def pairwise_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """All metrics of a judge with intervals over images: see `per_judgement` and `per_pair`.

    Raises:
        ValueError: no judgements, or one order of a pair twice.
    """
    if not judgements:
        raise ValueError("there are no judgements to measure")
    metrics = _means(per_judgement(judgements), clusters(judgements, seed=seed))
    if pairs := both_orders(judgements):
        metrics |= _means(per_pair(pairs), clusters([first for first, _ in pairs], seed=seed))
    return metrics


def category_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """`CATEGORY_FIGURES` within each category, as `<category>/<metric>`; empty when there is only one category.

    Raises:
        ValueError: one order of a pair twice.
    """
    names = sorted({j.task.category for j in judgements})
    if len(names) < 2:
        return {}
    pairs = both_orders(judgements)
    tables = [(judgements, per_judgement(judgements))]
    if pairs:
        tables.append(([first for first, _ in pairs], per_pair(pairs)))
    metrics: dict[str, Estimate] = {}
    for members, figures in tables:
        bootstrap = clusters(members, seed=seed)
        category = np.array([j.task.category for j in members])
        for name in names:
            inside = {
                f"{name}/{figure}": (values, counted & (category == name))
                for figure, (values, counted) in figures.items()
                if figure in CATEGORY_FIGURES
            }
            metrics |= _means(inside, bootstrap)
    return dict(sorted(metrics.items()))


def length_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """Metrics of length bias with intervals over images: see `per_length`."""
    return _means(per_length(judgements), clusters(judgements, seed=seed))


def per_judgement(judgements: Sequence[Judgement]) -> dict[str, Observed]:
    """Metrics of single judgements. Denominator: answered requests, unless stated otherwise.

    accuracy: the verdict equals the label.
    accuracy_better_first, accuracy_better_second: the same where the better response is shown in that position.
    accuracy_readable: the same among readable verdicts.
    format_rate: responses that follow the grammar exactly.
    parse_failures, parse_failures/<reason>: no readable verdict.
    request_failures: failed requests, among all.
    """
    answered = np.array([j.answered for j in judgements])
    readable = np.array([j.readable for j in judgements])
    correct = np.array([j.correct for j in judgements], dtype=np.float64)
    truth = np.array([j.task.ground_truth for j in judgements])
    reasons = np.array([j.reason for j in judgements])
    unreadable = answered & ~readable
    figures = {
        "accuracy": (correct, answered),
        "accuracy_better_first": (correct, answered & (truth == "1")),
        "accuracy_better_second": (correct, answered & (truth == "2")),
        "accuracy_readable": (correct, readable),
        "format_rate": (np.array([j.well_formed for j in judgements], dtype=np.float64), answered),
        "parse_failures": (unreadable.astype(np.float64), answered),
    }
    for reason in sorted(set(reasons[unreadable].tolist())):
        figures[f"parse_failures/{reason}"] = ((unreadable & (reasons == reason)).astype(np.float64), answered)
    figures["request_failures"] = ((~answered).astype(np.float64), np.ones_like(answered))
    return figures


def per_pair(pairs: Sequence[tuple[Judgement, Judgement]]) -> dict[str, Observed]:
    """Metrics of pairs that were judged in both orders.

    accuracy_both_orders: correct in both orders; among pairs answered in both orders.
    swap_consistency: the same response wins in both orders; among pairs readable in both orders.
    position_bias: pairs in which the first position wins both times, minus those in which the second does, in [-1, 1];
        among pairs readable in both orders.
    """
    answered = np.array([a.answered and b.answered for a, b in pairs])
    readable = np.array([a.readable and b.readable for a, b in pairs])
    habit = [(a.pred == b.pred == "1") - (a.pred == b.pred == "2") for a, b in pairs]
    return {
        "accuracy_both_orders": (np.array([a.correct and b.correct for a, b in pairs], dtype=np.float64), answered),
        "swap_consistency": (np.array([consistent(a, b) for a, b in pairs], dtype=np.float64), readable),
        "position_bias": (np.array(habit, dtype=np.float64), readable),
    }


def per_length(judgements: Sequence[Judgement]) -> dict[str, Observed]:
    """Metrics of the preference for the longer response, in characters. Pairs of equal length and ties are left out.

    bias: share of verdicts for the longer response minus share of labels for it, in [-1, 1].
    longer_taken, longer_better: these two shares. All three among verdicts for one of the two responses.
    accuracy_longer_better, accuracy_shorter_better: accuracy where the label is the longer or the shorter response;
        among answered requests. A judge that always prefers the longer one has 1 and 0.
    """
    longer = np.array([_longer(j) for j in judgements])
    truth = np.array([j.task.ground_truth for j in judgements])
    pred = np.array([j.pred or "" for j in judgements])
    differ = (longer != "") & (truth != "tie")
    better, taken = longer == truth, (longer == pred).astype(np.float64)
    decided = differ & np.isin(pred, ("1", "2"))
    answered = differ & np.array([j.answered for j in judgements])
    correct = np.array([j.correct for j in judgements], dtype=np.float64)
    return {
        "bias": (taken - better, decided),
        "longer_taken": (taken, decided),
        "longer_better": (better.astype(np.float64), decided),
        "accuracy_longer_better": (correct, answered & better),
        "accuracy_shorter_better": (correct, answered & ~better),
    }


def clusters(judgements: Sequence[Judgement], *, seed: int = 0) -> ClusterBootstrap:
    """Bootstrap over the images of judgements."""
    return ClusterBootstrap([j.task.cluster for j in judgements], seed=seed)


def mean(name: str, observed: Observed, bootstrap: ClusterBootstrap) -> Estimate:
    """The mean of a metric with the kind of interval that it needs."""
    return (bootstrap.balance if signed(name) else bootstrap.rate)(*observed)


def signed(name: str) -> bool:
    """Whether a metric is in [-1, 1]; all others are shares."""
    return name.rpartition("/")[2] in ("position_bias", "bias")


def _means(figures: Mapping[str, Observed], bootstrap: ClusterBootstrap) -> dict[str, Estimate]:
    return {name: mean(name, observed, bootstrap) for name, observed in figures.items()}


def _longer(judgement: Judgement) -> str:
    """The position of the longer response; empty when both have the same length."""
    first, second = len(judgement.task.response_1), len(judgement.task.response_2)
    return "" if first == second else "1" if first > second else "2"


def both_orders(judgements: Sequence[Judgement]) -> list[tuple[Judgement, Judgement]]:
    """The pairs that were judged in both orders, as (order 0, order 1), in order of first appearance.

    Raises:
        ValueError: one order of a pair occurs twice.
    """
    found: dict[str, dict[int, Judgement]] = {}
    for judgement in judgements:
        orders = found.setdefault(judgement.task.pair_id, {})
        if judgement.task.order in orders:
            raise ValueError(f"pair {judgement.task.pair_id} was judged twice in order {judgement.task.order}")
        orders[judgement.task.order] = judgement
    return [(orders[0], orders[1]) for orders in found.values() if 0 in orders and 1 in orders]


def consistent(first: Judgement, second: Judgement) -> bool:
    """Whether two judgements of a pair in opposite orders choose the same response; unreadable ones never do."""
    return first.pred is not None and second.pred is not None and OPPOSITE[first.pred] == second.pred
