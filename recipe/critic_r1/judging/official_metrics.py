"""The published metrics of critic benchmarks, from judgements in both orders.

A benchmark's own script shows each pair once, in a random order. The mean over both orders, as computed here, has the
same expectation and less noise. The grouping comes with the rows (`meta.category`, `meta.group`; see
`data_prep.sources`), where it is taken from the official ids.

  VL-RewardBench            accuracy per group (hallucination, reasoning, general), overall, and macro over the groups
  MM-RLHF-RewardBench       Acc over pairs, Acc+ over prompts: all pairs of the prompt are correct
  Multimodal RewardBench    accuracy per category, overall, and macro over the categories
  Multimodal RewardBench 2  accuracy per task (t2i, edit, interleaved, reasoning) over both orders, and overall. Its
                            script does not count unreadable verdicts; here they are incorrect.
  MLLM-as-a-Judge           accuracy with ties (overall) and without ties, per data set of the images, and macro
  OmniRewardBench           accuracy with ties (overall) and without ties, per task, and macro. Its setting without ties
                            does not offer a tie in the prompt; here the prompt is the same.
  VideoRewardBench          accuracy per category (long-form and short-form perception, knowledge, reasoning, safety),
                            and overall
  EditReward-Bench          accuracy per number of edits (2pair, 3pair, 4pair), and Acc+ of each, over groups of edits
                            whose pairs are all correct
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.pairwise import Judgement


def official_metrics(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Estimate]:
    """Official metrics; an unreadable verdict counts as incorrect, a failed request not at all.

    `overall`; where some labels are ties `without_ties`, over the pairs with another label; with several categories
    `macro` and `category/<name>`; with groups of several pairs `acc_plus`, the share of groups with every pair correct,
    per order, averaged over the orders, and with several categories `acc_plus/<name>`.

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
    tie = np.array([j.task.ground_truth == "tie" for j in judgements])
    if tie.any():
        metrics["without_ties"] = bootstrap.rate(correct, answered & ~tie)
    if len(names) > 1:
        marks = [answered & (category == name) for name in names]
        metrics["macro"] = bootstrap.macro(correct, marks)
        metrics |= {f"category/{name}": bootstrap.rate(correct, mark) for name, mark in zip(names, marks, strict=True)}
    groups = _whole_groups(judgements)
    if groups:
        bootstrap = ClusterBootstrap([group for group, _, _ in groups], seed=seed)
        right = np.array([all_right for _, _, all_right in groups])
        metrics["acc_plus"] = bootstrap.rate(right)
        of = np.array([category for _, category, _ in groups])
        if len(names) > 1:
            metrics |= {f"acc_plus/{name}": bootstrap.rate(right, of == name) for name in names}
    return metrics


def _whole_groups(judgements: Sequence[Judgement]) -> list[tuple[str, str, bool]]:
    """Per group and order: the group's name and category, and whether all its pairs are correct.

    Empty when no group has two pairs. Groups with a failed request are left out.
    """
    groups: dict[tuple[str, int], list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault((judgement.task.group, judgement.task.order), []).append(judgement)
    if all(len(members) == 1 for members in groups.values()):
        return []
    return [
        (group, members[0].task.category, all(j.correct for j in members))
        for (group, _), members in groups.items()
        if all(j.answered for j in members)
    ]
