"""The public release's averaging of a loss, as a policy loss of verl: ``policy_loss.loss_mode=release``.

The release takes the mean over the tokens of each micro-batch, and the mean of these over the micro-batches and GPUs.
verl takes one mean over all tokens of a mini-batch. With verl's, every token weighs the same; with the release's, a
token in a micro-batch of short responses weighs more (docs/parity.md).
"""

from typing import Any

import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn, register_policy_loss

NAME = "release"


@register_policy_loss(NAME)  # type: ignore[untyped-decorator]
def release_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's clipped objective, averaged as the release averages; the KL and entropy terms of this micro-batch as well.

    Args:
        old_log_prob: (rows, tokens), of the sampled tokens; so are the next three.
        config: verl's actor configuration. ``global_batch_info`` holds ``global_batch_size``, the rows of a mini-batch
            over all GPUs. Its ``batch_num_tokens`` is changed for this micro-batch: verl's terms for KL and entropy,
            which come after the policy's, divide by it too.

    Raises:
        ValueError: ``loss_agg_mode`` is not ``token-mean``.
    """
    if loss_agg_mode != "token-mean":
        raise ValueError(f"policy_loss.loss_mode={NAME} is a mean over tokens; loss_agg_mode={loss_agg_mode} is not")
    info = config.global_batch_info
    # verl divides a sum over tokens by batch_num_tokens and multiplies by the number of GPUs. So that this is the
    # micro-batch's mean divided by the number of micro-batches on a GPU, the mini-batch has to look as if all of its
    # micro-batches had as many tokens as this one. An empty one gives 0 either way.
    micro_batches = info["global_batch_size"] / len(response_mask)
    info["batch_num_tokens"] = max(1, int(response_mask.sum())) * micro_batches
    loss: tuple[torch.Tensor, dict[str, Any]] = get_policy_loss_fn("vanilla")(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        config=config,
        rollout_is_weights=rollout_is_weights,
    )
    return loss
