"""The figures by which critic benchmarks are published, from judgements in both orders.

A benchmark's own script shows each pair once, in a drawn order. Its accuracy is therefore, in expectation, the mean
over both orders, and that is what stands here: the same figure without the luck of the draw. The grouping comes with
the rows (`meta.category`, `meta.group`; see `data_prep.sources`), where it is read from the official ids.

  VL-RewardBench          accuracy per group (hallucination, reasoning, general), overall, and macro over the groups
  MM-RLHF-RewardBench     Acc over pairs, Acc+ over prompts whose pairs are all right
  Multimodal RewardBench  accuracy per category, overall, and macro over the categories
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.metrics import both_orders
from recipe.critic_r1.judging.pairwise import Judgement


def official_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """Official figures; an unreadable verdict counts as not right, a failed request not at all.

    `overall`; with several categories `macro` and `category/<name>`; with groups of several pairs `acc_plus`, the share
    of groups with every pair right, per order, averaged over the orders.

    Raises:
        ValueError: no judgements.
    """
    if not judgements:
        raise ValueError("there are no judgements to measure")
    bootstrap = ClusterBootstrap([j.task.picture_sha256 for j in judgements], seed=seed)
    answered = np.array([j.answered for j in judgements])
    correct = np.array([j.correct for j in judgements])
    category = np.array([j.task.category for j in judgements])
    names = sorted(set(category.tolist()))
    metrics = {"overall": bootstrap.rate(correct, answered)}
    if len(names) > 1:
        marks = [answered & (category == name) for name in names]
        metrics["macro"] = bootstrap.macro(correct, marks)
        metrics |= {f"category/{name}": bootstrap.rate(correct, mark) for name, mark in zip(names, marks, strict=True)}
    whole = _whole_groups(judgements)
    if whole is not None:
        groups, right = whole
        metrics["acc_plus"] = ClusterBootstrap(groups, seed=seed).rate(right)
    return metrics


def _whole_groups(judgements: Sequence[Judgement]) -> tuple[list[str], list[bool]] | None:
    """Per group and order: the group's name and whether all its pairs are right. None when no group has two pairs.

    A group with a failed request is left out: it is not known.
    """
    groups: dict[tuple[str, int], list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault((judgement.task.group, judgement.task.order), []).append(judgement)
    if all(len(members) == 1 for members in groups.values()):
        return None
    known = {key: members for key, members in groups.items() if all(j.answered for j in members)}
    if not known:
        return None
    return [group for group, _ in known], [all(j.correct for j in members) for members in known.values()]


def compare(first: Sequence[Judgement], second: Sequence[Judgement], *, seed: int = 0) -> dict[str, object]:
    """Two judges on the same pairs.

    Returns:
        `accuracy_difference`, `both_orders_difference`: second minus first, an `Estimate` paired by picture;
        `only_first`, `only_second`: pairs that just one of them judges right in both orders; `p_value`: exact McNemar
        test on these; `pairs`: compared, that is answered by both in both orders.

    Raises:
        ValueError: the two share no pair.
    """
    one, other = _answered_pairs(first), _answered_pairs(second)
    shared = [pair_id for pair_id in one if pair_id in other]
    if not shared:
        raise ValueError(
            "the two runs share no pair that both answered in both orders: were they made on the same data?"
        )
    clusters = ClusterBootstrap([one[pair_id][0].task.picture_sha256 for pair_id in shared], seed=seed)
    mean = [np.array([(a.correct + b.correct) / 2 for a, b in map(run.__getitem__, shared)]) for run in (one, other)]
    both = [np.array([a.correct and b.correct for a, b in map(run.__getitem__, shared)]) for run in (one, other)]
    only_first, only_second = int((both[0] & ~both[1]).sum()), int((both[1] & ~both[0]).sum())
    discordant = only_first + only_second
    return {
        "accuracy_difference": clusters.difference(mean[1], mean[0]),
        "both_orders_difference": clusters.difference(both[1], both[0]),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        "pairs": len(shared),
    }


def _answered_pairs(run: Sequence[Judgement]) -> dict[str, tuple[Judgement, Judgement]]:
    return {a.task.pair_id: (a, b) for a, b in both_orders(run) if a.answered and b.answered}
