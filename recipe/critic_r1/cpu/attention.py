"""Causal attention without a mask, for the padded batches that verl trains on where there is no flash-attention.

transformers writes the mask of a padded batch out, a byte for every pair of tokens, and torch on the CPU makes float32
of it: 0.5 GB for four rollouts of 5,000 tokens, in each pass. verl pads on the right, so that no token ever looks at
padding: what a causal mask hides is all there is to hide, and torch's kernel does that by itself. What comes out for
padding is not used.

Named in ``actor_rollout_ref.model.override_config.attn_implementation``;
imported with `recipe.critic_r1.cpu.fsdp_engine`.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "causal_sdpa"


def right_padded_mask(*args: Any, mask_function: Any = causal_mask_function, **kwargs: Any) -> torch.Tensor | None:
    """None, for torch's own causal attention, where causal is all that is asked; else what ``sdpa`` takes.

    Packed sequences, windows and attention in both directions come with a ``mask_function`` of their own.
    """
    if mask_function is causal_mask_function:
        return None
    return sdpa_mask(*args, mask_function=mask_function, **kwargs)


AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, right_padded_mask)
