"""The published metrics of critic benchmarks, from judgements in both orders.

A benchmark's own script shows each pair once, in a random order. The mean over both orders, as computed here, has the
same expectation and less noise. The grouping comes with the rows (`meta.category`, `meta.group`; see
`data_prep.sources`), where it is taken from the official ids.

  VL-RewardBench          accuracy per group (hallucination, reasoning, general), overall, and macro over the groups
  MM-RLHF-RewardBench     Acc over pairs, Acc+ over prompts: all pairs of the prompt are correct
  Multimodal RewardBench  accuracy per category, overall, and macro over the categories
  Multimodal RewardBench 2  accuracy per task (t2i, edit, interleaved, reasoning) over both orders, and overall. Its
                            script does not count unreadable verdicts; here they are incorrect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.pairwise import Judgement


def official_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """Official metrics; an unreadable verdict counts as incorrect, a failed request not at all.

    `overall`; with several categories `macro` and `category/<name>`; with groups of several pairs `acc_plus`, the share
    of groups with every pair correct, per order, averaged over the orders.

    Raises:
        ValueError: no judgements.
    """
    if not judgements:
        raise ValueError("there are no judgements to measure")
    bootstrap = ClusterBootstrap([j.task.cluster for j in judgements], seed=seed)
    answered = np.array([j.answered for j in judgements])
    correct = np.array([j.correct for j in judgements])
    category = np.array([j.task.category for j in judgements])
    names = sorted(set(category.tolist()))
    metrics = {"overall": bootstrap.rate(correct, answered)}
    if len(names) > 1:
        marks = [answered & (category == name) for name in names]
        metrics["macro"] = bootstrap.macro(correct, marks)
        metrics |= {f"category/{name}": bootstrap.rate(correct, mark) for name, mark in zip(names, marks, strict=True)}
    scored = _scored_groups(judgements)
    if scored is not None:
        groups, right = scored
        metrics["acc_plus"] = ClusterBootstrap(groups, seed=seed).rate(right)
    return metrics


def _scored_groups(judgements: Sequence[Judgement]) -> tuple[list[str], list[bool]] | None:
    """Per group and order: the group's name and whether all its pairs are correct. None when no group has two pairs.

    Groups with a failed request are left out.
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
