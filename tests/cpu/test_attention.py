"""Attention of the CPU engine: without a mask, and the same numbers for every token that is not padding."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from recipe.critic_r1.cpu.attention import NAME

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


def padded() -> dict[str, torch.Tensor]:
    ids = torch.arange(3 * max(LENGTHS)).view(3, -1) % 40
    mask = torch.tensor([[1] * length + [0] * (max(LENGTHS) - length) for length in LENGTHS])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1) * mask}


def packed() -> dict[str, torch.Tensor]:
    """Two sequences in one row, told apart by their positions."""
    return {"input_ids": torch.arange(9)[None], "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])}


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("inputs", [padded, packed])
def test_it_gives_what_the_written_mask_gives(inputs, window: int | None) -> None:
    for ours, theirs in zip(outcome(NAME, window, **inputs()), outcome("sdpa", window, **inputs()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("inputs", "window", "written"), [(padded, None, 0), (padded, 3, 2), (packed, None, 2)])
def test_a_mask_is_written_only_where_causal_is_not_all(
    inputs, window: int | None, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = []
    original = torch.nn.functional.scaled_dot_product_attention

    def attend(*args: torch.Tensor, **kwargs):
        masks.append(kwargs["attn_mask"])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    model(NAME, window)(**inputs(), use_cache=False)
    assert len(masks) == 2
    assert sum(mask is not None for mask in masks) == written
