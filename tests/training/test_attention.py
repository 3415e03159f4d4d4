"""Attention without flash-attn: no mask, and the same numbers for every token that is not padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from recipe.critic_r1.training.attention import NAME, PACKED, packed_attention, sequence_lengths, varlen_attention

LENGTHS = (9, 4, 1)


def model(attention: str, window: int | None = None) -> Qwen2Model:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=0,
    )
    config._attn_implementation = attention
    return Qwen2Model(config).double()


def outcome(attention: str, window: int | None = None, **inputs: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of the tokens that are not padding, and the gradients of all weights."""
    found = model(attention, window)
    hidden = found(**inputs, use_cache=False).last_hidden_state
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    (
        hidden[real] * torch.linspace(-1, 1, hidden[real].numel(), dtype=hidden.dtype).view_as(hidden[real])
    ).sum().backward()
    return [hidden[real].detach(), *(weight.grad for weight in found.parameters())]


Inputs = Callable[[], dict[str, torch.Tensor]]


def padded() -> dict[str, torch.Tensor]:
    ids = torch.arange(3 * max(LENGTHS)).view(3, -1) % 40
    mask = torch.tensor([[1] * length + [0] * (max(LENGTHS) - length) for length in LENGTHS])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1) * mask}


def packed() -> dict[str, torch.Tensor]:
    """Two sequences in one row, told apart by their positions."""
    return {"input_ids": torch.arange(9)[None], "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])}


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("inputs", [padded, packed])
def test_it_gives_what_the_written_mask_gives(inputs: Inputs, window: int | None) -> None:
    for ours, theirs in zip(outcome(NAME, window, **inputs()), outcome("sdpa", window, **inputs()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inputs", [padded, packed])
def test_packed_rows_give_what_the_written_mask_gives(inputs: Inputs) -> None:
    for ours, theirs in zip(outcome(PACKED, None, **inputs()), outcome("sdpa", None, **inputs()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [
        (None, []),
        ([[0, 1, 2]], [3]),
        ([[0, 1, 0, 0, 1, 2]], [2, 1, 3]),
        ([[0, 1], [0, 1]], []),  # padded rows
    ],
)
def test_positions_tell_the_sequences_apart(positions: list[list[int]] | None, lengths: list[int]) -> None:
    assert sequence_lengths(None if positions is None else torch.tensor(positions)) == lengths


def test_a_row_that_begins_inside_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="begin with position 0"):
        sequence_lengths(torch.tensor([[3, 4, 0, 1]]))


def test_a_window_is_refused() -> None:
    states = torch.zeros(1, 1, 4, 8)
    tokens, ends = states[0, 0, :, None], torch.tensor([0, 4])
    with pytest.raises(NotImplementedError, match="flash_attention_2"):
        packed_attention(None, states, states, states, None, sliding_window=2)
    with pytest.raises(NotImplementedError, match="flash_attention_2"):
        varlen_attention(tokens, tokens, tokens, ends, ends, 4, 4, window_size=(2, 2))


def test_queries_of_float32_meet_values_of_bfloat16() -> None:
    """Rotary positions leave queries and keys in float32 where the model computes in bfloat16."""
    q, k, v = torch.randn(3, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    bounds = torch.tensor([0, 3, 5], dtype=torch.int32)
    found = varlen_attention(q, k, v.bfloat16(), bounds, bounds, 3, 3, causal=True)
    assert found.dtype == torch.bfloat16
    alone = varlen_attention(
        q[3:], k[3:], v[3:], bounds.new_tensor([0, 2]), bounds.new_tensor([0, 2]), 2, 2, causal=True
    )
    torch.testing.assert_close(found[3:].float(), alone, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("inputs", "window", "written"), [(padded, None, 0), (padded, 3, 2), (packed, None, 2)])
def test_a_mask_is_written_only_where_causal_is_not_all(
    inputs: Inputs, window: int | None, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = []
    original = torch.nn.functional.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        masks.append(kwargs["attn_mask"])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    model(NAME, window)(**inputs(), use_cache=False)
    assert len(masks) == 2
    assert sum(mask is not None for mask in masks) == written
