"""Which rollouts go to which data-parallel rank: all of a prompt to one, so that one rank makes its images' pixels.

verl shares rollouts out one by one, by their lengths. The eight rollouts of a prompt then lie on five of eight ranks on
average, and each of these makes the same pixels and shows them to its vision tower. Shared out by prompts, the lengths
(image tokens are in them) come out nearly as even, since a prompt's rollouts are of similar length.
"""

from collections.abc import Sequence

import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


def by_prompt(
    keys: Sequence[str], lengths: Sequence[int], ranks: int, prompt_lengths: Sequence[int] | None = None
) -> list[int] | None:
    """The order of a batch's rollouts in which every rank gets whole prompts; None when it cannot be had.

    Args:
        keys: verl's, ``{uid}_{sample}_{part}``.
        lengths: tokens of each rollout.
        ranks: data-parallel size; each gets an equal, unbroken part of the order.
        prompt_lengths: tokens of each rollout's prompt, where a prompt is computed once for all of its rollouts.
    """
    prompts: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        prompts.setdefault(key.rsplit("_", 2)[0], []).append(i)
    groups = [sorted(group) for group in prompts.values()]
    if ranks == 1 or len(groups) % ranks or len({len(group) for group in groups}) > 1:
        return None
    if prompt_lengths is None:
        workloads = calculate_workload(torch.tensor(lengths, dtype=torch.int64)).tolist()
        totals = [sum(workloads[i] for i in group) for group in groups]
    else:
        tokens = [sum(lengths[i] for i in group) - (len(group) - 1) * prompt_lengths[group[0]] for group in groups]
        totals = calculate_workload(torch.tensor(tokens, dtype=torch.int64)).tolist()
    parts = get_seqlen_balanced_partitions(totals, k_partitions=ranks, equal_size=True)
    return [i for part in parts for place in part for i in groups[place]]
