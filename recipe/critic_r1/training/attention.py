"""Exact causal attention by torch's own kernels, for batches that verl trains on where there is no flash-attention.

Both are named in ``actor_rollout_ref.model.override_config.attn_implementation`` and registered on import
(`recipe.critic_r1.cpu.fsdp_engine` does that).

``causal_sdpa`` is for padded batches (``use_remove_padding=false``). transformers writes the mask of a padded batch
out, a byte for every pair of tokens, and torch on the CPU makes float32 of it: 0.5 GB for four rollouts of 5,000
tokens, in each pass. verl pads on the right, so no token ever attends to padding: a causal mask hides all there is to
hide, and torch's kernel does that by itself. What comes out for padding is not used.

``packed_sdpa`` is for packed batches (``use_remove_padding=true``): one row that holds all sequences of a micro-batch,
each attended to by itself. Positions tell where one begins, as for flash-attention's varlen kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "causal_sdpa"
PACKED = "packed_sdpa"


def right_padded_mask(*args: Any, mask_function: Any = causal_mask_function, **kwargs: Any) -> torch.Tensor | None:
    """None, for torch's own causal attention, where causal is all that is asked; else what ``sdpa`` takes.

    Packed sequences, windows and attention in both directions come with a ``mask_function`` of their own.
    """
    if mask_function is causal_mask_function:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, mask_function=mask_function, **kwargs)
    return mask


def no_mask(*args: Any, **kwargs: Any) -> None:
    """Nothing: `packed_attention` tells the sequences of a packed row apart by their positions."""
    return None


def sequence_lengths(position_ids: torch.Tensor | None) -> list[int]:
    """Lengths of the sequences in a packed row.

    Args:
        position_ids: (1, tokens), starting at 0 in each sequence. None, or a batch of several rows: nothing is packed.

    Returns:
        One length a sequence; empty when nothing is packed.
    """
    if position_ids is None or len(position_ids) != 1:
        return []
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    if starts[:1] != [0]:
        raise ValueError("a packed row has to begin with position 0")
    return [end - start for start, end in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each sequence to itself.

    Args:
        module: asks whether it is causal (``is_causal``).
        query: (1, heads, tokens, channels) packed, or (rows, heads, tokens, channels) padded on the right.
        key: the same with key heads.
        value: the same with key heads.
        attention_mask: None, see `no_mask`.
        position_ids: (1, tokens) where the row is packed.
        sliding_window: refused; no model of a shipped configuration has one.

    Returns:
        (rows, tokens, heads, channels), and None for the weights.
    """
    from verl.utils.ulysses import get_ulysses_sequence_parallel_world_size

    if sliding_window is not None:
        raise NotImplementedError(f"{PACKED} has no sliding window: take attn_implementation=flash_attention_2")
    if get_ulysses_sequence_parallel_world_size() > 1:
        raise NotImplementedError(f"{PACKED} does not split sequences: set ulysses_sequence_parallel_size=1")
    lengths = sequence_lengths(position_ids)
    if len(lengths) < 2:
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)[0], None
    parts = zip(*(torch.split(packed, lengths, dim=2) for packed in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **kwargs)[0] for part in parts], dim=1), None


class _Causal:
    """What `sdpa_attention_forward` asks of a module whose keys have as many heads as its queries."""

    is_causal = True
    num_key_value_groups = 1


def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Any,
    max_seqlen_k: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int] = (-1, -1),
    deterministic: bool = False,
) -> torch.Tensor:
    """flash-attention's ``flash_attn_varlen_func`` as verl calls it.

    Args:
        q: (tokens, heads, channels), as k and v.
        cu_seqlens_q: (sequences + 1,): where each sequence begins, and the number of tokens.

    Returns:
        (tokens, heads, channels).
    """
    if tuple(window_size) != (-1, -1):
        raise NotImplementedError(f"{PACKED} has no sliding window: take attn_implementation=flash_attention_2")
    lengths = cu_seqlens_q.diff().tolist()
    # Rotary positions are float32, and leave queries and keys so where the model computes in bfloat16.
    split = (torch.split(packed.to(v.dtype).transpose(0, 1)[None], lengths, dim=2) for packed in (q, k, v))
    outputs = [
        sdpa_attention_forward(_Causal, *part, None, dropout=dropout_p, scaling=softmax_scale, is_causal=causal)[0][0]
        for part in zip(*split, strict=True)
    ]
    return torch.cat(outputs)


def dense_attention(
    query_states: torch.Tensor,
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    query_length: int,
    is_causal: bool = True,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    softmax_scale: float | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """transformers' ``_flash_attention_forward`` as verl calls it: one sequence a row, padded on the right.

    Args:
        query_states: (rows, tokens, heads, channels), as keys and values.

    Returns:
        (rows, tokens, heads, channels).
    """
    if sliding_window is not None and key_states.shape[1] > sliding_window:
        raise NotImplementedError(f"{PACKED} has no sliding window: take attn_implementation=flash_attention_2")
    rows = (states.to(value_states.dtype).transpose(1, 2) for states in (query_states, key_states, value_states))
    output: torch.Tensor = sdpa_attention_forward(
        _Causal, *rows, None, dropout=dropout, scaling=softmax_scale, is_causal=is_causal
    )[0]
    return output


AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, right_padded_mask)
AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, no_mask)
