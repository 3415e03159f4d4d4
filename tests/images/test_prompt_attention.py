"""Attention over shared prompts against attention with a mask written out, on both kernels."""

import pytest
import torch

from recipe.critic_r1.images.prompt_attention import Layout, attend, kernels_are_right, plain_attention

SHAPES = {
    "one group": ([9], [[4, 3, 4]]),
    "one response": ([5], [[6]]),
    "one token each": ([1, 1], [[1], [1, 1]]),
    "unequal groups": ([12, 3, 40], [[1, 7, 2], [5], [30, 29, 1, 2]]),
    "prompts of similar length": ([20, 22, 24], [[6, 7], [7, 7], [8, 6]]),
    "an empty response": ([8, 4], [[3, 0, 2], [2]]),
    "a prompt alone": ([6, 3], [[2, 2], [0]]),
    "prompts only": ([6, 3], [[0], [0, 0]]),
}


def both(prompts, responses, dtype=torch.float32, heads=4, key_heads=2, device="cpu"):
    torch.manual_seed(0)
    tokens = sum(prompts) + sum(map(sum, responses))
    given = [torch.randn(tokens, h, 16, dtype=dtype) for h in (heads, key_heads, key_heads)]
    outer = torch.randn(tokens, heads, 16)

    def run(attention, inputs):
        inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        out = attention(*inputs)
        return [out, *torch.autograd.grad(out, inputs, outer.to(out.dtype))]

    ours = run(lambda *qkv: attend(*qkv, layout=Layout(prompts, responses), scale=0.25), given)
    return ours, run(lambda *qkv: plain_attention(*qkv, prompts, responses), [tensor.float() for tensor in given])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_outputs_and_gradients_are_those_of_a_mask(shape, heads) -> None:
    for ours, wanted in zip(*both(*shape, heads=heads[0], key_heads=heads[1]), strict=True):
        assert torch.allclose(ours, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bfloat16_is_right_within_its_rounding(shape) -> None:
    for ours, wanted in zip(*both(*shape, dtype=torch.bfloat16), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - wanted).norm() <= 0.01 * wanted.norm()


def test_the_check_of_a_start_passes_here() -> None:
    assert kernels_are_right("cpu", 8, 2, 32)
