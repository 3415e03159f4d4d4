"""Attention over shared prompts against attention with a mask written out.

On the CPU's kernel, and on the path to a GPU's: there plain torch takes the place of flash attention, behind the same
operators of torch, so that their signatures are checked. No GPU is needed, and none is tested.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from recipe.critic_r1.images import prompt_attention
from recipe.critic_r1.images.prompt_attention import Layout, attend, kernels_are_right, plain_attention

Shape = tuple[list[int], list[list[int]]]
"""Lengths of the prompts, and of the responses of each."""

SHAPES: dict[str, Shape] = {
    "one group": ([9], [[4, 3, 4]]),
    "one response": ([5], [[6]]),
    "one token each": ([1, 1], [[1], [1, 1]]),
    "unequal groups": ([12, 3, 40], [[1, 7, 2], [5], [30, 29, 1, 2]]),
    "prompts of similar length": ([20, 22, 24], [[6, 7], [7, 7], [8, 6]]),
    "an empty response": ([8, 4], [[3, 0, 2], [2]]),
    "a prompt alone": ([6, 3], [[2, 2], [0]]),
    "prompts only": ([6, 3], [[0], [0, 0]]),
}


def both(
    prompts: list[int],
    responses: list[list[int]],
    dtype: torch.dtype = torch.float32,
    heads: int = 4,
    key_heads: int = 2,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    tokens = sum(prompts) + sum(map(sum, responses))
    given = [torch.randn(tokens, h, 16, dtype=dtype) for h in (heads, key_heads, key_heads)]
    outer = torch.randn(tokens, heads, 16)

    def run(attention: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        out = attention(*inputs)
        return [out, *torch.autograd.grad(out, inputs, outer.to(out.dtype))]

    ours = run(lambda q, k, v: attend(q, k, v, Layout(prompts, responses), 0.25), given)
    wanted = run(lambda q, k, v: plain_attention(q, k, v, prompts, responses), [tensor.float() for tensor in given])
    return ours, wanted


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_outputs_and_gradients_are_those_of_a_mask(shape: Shape, heads: tuple[int, int]) -> None:
    for ours, wanted in zip(*both(*shape, heads=heads[0], key_heads=heads[1]), strict=True):
        assert torch.allclose(ours, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bfloat16_is_right_within_its_rounding(shape: Shape) -> None:
    for ours, wanted in zip(*both(*shape, dtype=torch.bfloat16), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - wanted).norm() <= 0.01 * wanted.norm()


def test_the_check_of_a_start_passes_here() -> None:
    assert kernels_are_right("cpu", 8, 2, 32)


def segments(ends_q: torch.Tensor, ends_k: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    for ends in (ends_q, ends_k):
        assert ends.dtype == torch.int32
    bounds = zip(ends_q.tolist(), ends_q.tolist()[1:], ends_k.tolist(), ends_k.tolist()[1:], strict=False)
    for begin_q, end_q, begin_k, end_k in bounds:
        assert end_q > begin_q  # what the kernels do with an empty segment's keys is nobody's promise
        assert end_k > begin_k
        yield slice(begin_q, end_q), slice(begin_k, end_k)


def scores(query: torch.Tensor, key: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """(heads, queries, keys) in float32; causal attention is aligned to the end, as flash attention's is."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    found = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scale
    seen = torch.ones(found.shape[1:], dtype=torch.bool).tril(found.shape[2] - found.shape[1])
    return found.masked_fill(~seen, float("-inf")) if causal else found


def flash_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends_q: torch.Tensor,
    ends_k: torch.Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    causal: bool,
    debug: bool,
    *,
    scale: float,
    **windows: Any,
) -> tuple[torch.Tensor, ...]:
    assert (dropout, debug) == (0.0, False)
    assert int(ends_q[-1]) == len(query) and int(ends_k[-1]) == len(key) == len(value)  # noqa: PT018
    assert max_q == max(ends_q.diff()) and max_k == max(ends_k.diff())  # noqa: PT018
    output, lse = torch.empty(query.shape, dtype=query.dtype), torch.empty(query.shape[1], len(query))
    for q, k in segments(ends_q, ends_k):
        found = scores(query[q], key[k], causal, scale)
        repeated = value[k].repeat_interleave(query.shape[1] // key.shape[1], 1).float()
        output[q] = torch.einsum("hqk,khd->qhd", found.softmax(-1), repeated).to(query.dtype)
        lse[:, q] = found.logsumexp(-1)
    return output, lse, torch.zeros(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def flash_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    ends_q: torch.Tensor,
    ends_k: torch.Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    causal: bool,
    state: torch.Tensor,
    unused: torch.Tensor,
    *,
    scale: float,
    **windows: Any,
) -> tuple[torch.Tensor, ...]:
    assert lse.is_contiguous()  # the kernel reads it by its address
    assert lse.shape == (query.shape[1], len(query))
    groups = query.shape[1] // key.shape[1]
    totals = [torch.full_like(tensor, float("nan")) for tensor in (query, key, value)]
    for q, k in segments(ends_q, ends_k):
        shares = (scores(query[q], key[k], causal, scale) - lse[:, q, None]).exp()
        outer = gradient[q].float()
        repeated = [tensor[k].repeat_interleave(groups, 1).float() for tensor in (key, value)]
        rows = (outer * output[q].float()).sum(-1).T[..., None]
        inner = shares * (torch.einsum("qhd,khd->hqk", outer, repeated[1]) - rows) * scale
        totals[0][q] = torch.einsum("hqk,khd->qhd", inner, repeated[0]).to(query.dtype)
        for total, part in (
            (totals[1], torch.einsum("hqk,qhd->khd", inner, query[q].float())),
            (totals[2], torch.einsum("hqk,qhd->khd", shares, outer)),
        ):
            total[k] = part.reshape(len(part), -1, groups, part.shape[-1]).sum(2).to(query.dtype)
    return tuple(totals)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch's operators of flash attention on the CPU, and attention that takes them."""
    monkeypatch.setattr(prompt_attention, "_pads", lambda device: False)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", flash_forward, "CPU")
        library.impl("_flash_attention_backward", flash_backward, "CPU")
        yield


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_the_path_of_a_gpu_gives_the_same(shape: Shape, heads: tuple[int, int], flash: None) -> None:
    for ours, wanted in zip(*both(*shape, heads=heads[0], key_heads=heads[1]), strict=True):
        assert torch.allclose(ours, wanted, atol=2e-6, rtol=1e-5)


def test_the_check_of_a_start_passes_on_the_path_of_a_gpu(flash: None) -> None:
    assert kernels_are_right("cpu", 8, 2, 32)


def wrong_scale(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    output, lse, *rest = flash_forward(*args, **kwargs)
    return output, lse / 0.6931, *rest  # to another base


def transposed(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    output, lse, *rest = flash_forward(*args, **kwargs)
    return output, lse.T.reshape(lse.shape), *rest


@pytest.mark.parametrize("wrong", [wrong_scale, transposed])
def test_the_check_of_a_start_finds_kernels_that_return_something_else(
    wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_attention, "_pads", lambda device: False)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", wrong, "CPU")
        library.impl("_flash_attention_backward", flash_backward, "CPU")
        assert not kernels_are_right("cpu", 8, 2, 32)
