"""Attention over a pack ``[prompts | responses]``: a prompt is causal, a response sees its prompt and itself.

Exact, with no mask and no copy of a prompt's keys. Two passes of flash attention share the work: causal attention
within each prompt and each response, and attention of all responses of a prompt to that prompt. Their results are
combined by their log-sum-exp, as in cascade and ring attention. The backward pass calls the kernel's own backward once
for each pass with the *combined* output and log-sum-exp, from which the kernel derives the probabilities and the row
sums of the whole softmax. So no gradient of a log-sum-exp is needed, which these kernels do not have.

Both kernels come with torch: ``aten::_flash_attention_forward`` for packed segments on a GPU, and
``aten::_scaled_dot_product_flash_attention_for_cpu``, which gets segments of similar length as a padded batch.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface

NAME = "shared_prompts"
"""Under which transformers finds this attention; it asks for no mask."""

LAYOUT = "prompt_layout"
"""Keyword argument of the model that carries the `Layout` to the attention of every layer."""

_PADDING = 1.25
"""On a CPU, segments are padded to a common length up to this factor."""


def _pads(device: torch.device) -> bool:
    """Whether segments go to the CPU's kernel as padded batches, and not packed to flash attention."""
    return device.type == "cpu"


@dataclass(frozen=True)
class _Run:
    """Segments of similar length as a padded batch: S segments of at most Q queries and K keys."""

    queries: torch.Tensor
    """(S, Q): rows of the packed queries; a segment that is shorter repeats its last row."""
    keys: torch.Tensor
    """(S, K)"""
    real: torch.Tensor
    """(S, Q): whether a query is not such a repetition."""
    real_keys: torch.Tensor
    """(S, K)"""


def _padded(starts: list[int], lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    steps, length = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    return torch.tensor(starts)[:, None] + torch.minimum(steps, length - 1), steps < length


class _Segments:
    """Queries and keys of each segment, one after the other in the packed tensors; no segment is empty."""

    def __init__(self, queries: list[int], keys: list[int], device: torch.device) -> None:
        self.longest = max(queries), max(keys)
        starts_q, starts_k = [0, *accumulate(queries)], [0, *accumulate(keys)]
        self.ends = tuple(torch.tensor(starts, dtype=torch.int32, device=device) for starts in (starts_q, starts_k))
        self.runs: list[_Run] = []
        if not _pads(device):
            return
        batches: list[list[int]] = []
        for i in sorted(range(len(queries)), key=lambda i: (keys[i], queries[i])):
            joined = [*batches[-1], i] if batches else [i]
            similar = all(
                max(lengths[j] for j in joined) <= _PADDING * min(lengths[j] for j in joined)
                for lengths in (queries, keys)
            )
            if batches and similar:
                batches[-1] = joined
            else:
                batches.append([i])
        for batch in batches:
            rows, real = _padded([starts_q[i] for i in batch], [queries[i] for i in batch])
            keyed, real_keys = _padded([starts_k[i] for i in batch], [keys[i] for i in batch])
            self.runs.append(_Run(rows, keyed, real, real_keys))


class Layout:
    """Where prompts and responses are in a pack: all prompts, then the responses of each prompt in turn."""

    # A plain class: FSDP takes dataclasses and tuples among the model's arguments apart.
    def __init__(self, prompts: list[int], responses: list[list[int]], device: torch.device | str = "cpu") -> None:
        """
        Args:
            prompts: tokens of each prompt, at least one. Prompts without a single response token come last, so that
                the prompts to which responses attend are one slice.
            responses: tokens of each prompt's responses.
        """
        device = torch.device(device)
        answers = [sum(lengths) for lengths in responses if sum(lengths)]
        if any(sum(lengths) for lengths in responses[len(answers) :]):
            raise ValueError("prompts without response tokens must come last")
        own = [*prompts, *(length for lengths in responses for length in lengths if length)]
        self.own = _Segments(own, own, device)
        self.across = _Segments(answers, prompts[: len(answers)], device) if answers else None
        self.prompt_tokens = sum(prompts)
        self.answered_tokens = sum(prompts[: len(answers)])


def _cpu_batch(run: _Run, query: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of a run as (S, heads, tokens, D)."""
    return query[run.queries].transpose(1, 2), *(other[run.keys].transpose(1, 2) for other in others)


def _cpu_settings(run: _Run, causal: bool, query: torch.Tensor, scale: float) -> dict[str, Any]:
    # Queries that are real never see a key that is not where attention is causal.
    if causal or bool(run.real_keys.all()):
        return {"scale": scale}
    mask = torch.zeros(run.real_keys.shape, dtype=query.dtype).masked_fill(~run.real_keys, float("-inf"))
    return {"scale": scale, "attn_mask": mask[:, None, None].expand(-1, 1, run.queries.shape[1], -1)}


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: _Segments, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention within segments: output (T, heads, D) and log-sum-exp (heads, T) in float32."""
    if not _pads(query.device):
        output, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *segments.ends, *segments.longest, 0.0, causal, False, scale=scale
        )
        return output, lse
    output = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty(query.shape[1], query.shape[0], dtype=torch.float32)
    for run in segments.runs:
        found, found_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *_cpu_batch(run, query, key, value), 0.0, causal, **_cpu_settings(run, causal, query, scale)
        )
        rows = run.queries[run.real]
        output[rows] = found.transpose(1, 2)[run.real]
        lse[:, rows] = found_lse.transpose(0, 1)[:, run.real].float()
    return output, lse


def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    segments: _Segments,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value through one pass, given output and log-sum-exp of all passes together."""
    if not _pads(query.device):
        # Without dropout the state of the random generator is never read.
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device), torch.empty(0, device=query.device)
        found = torch.ops.aten._flash_attention_backward(
            *(gradient, query, key, value, output, lse.contiguous(), *segments.ends, *segments.longest, 0.0, causal),
            *unused,
            scale=scale,
        )
        return found[0], found[1], found[2]
    gradients = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for run in segments.runs:
        outer = gradient[run.queries].masked_fill(~run.real[..., None, None], 0).transpose(1, 2)
        batch = _cpu_batch(run, query, key, value)
        groups = query.shape[1] // key.shape[1]
        batch = batch[0], *(other.repeat_interleave(groups, 1) for other in batch[1:])
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(outer, *batch, output[run.queries].transpose(1, 2), lse[:, run.queries].transpose(0, 1), 0.0, causal),
            **_cpu_settings(run, causal, query, scale),
        )
        gradients[0][run.queries[run.real]] = found[0].transpose(1, 2)[run.real]
        for total, part in zip(gradients[1:], found[1:], strict=True):
            summed = part.unflatten(1, (-1, groups)).sum(2).transpose(1, 2)
            total[run.keys[run.real_keys]] = summed[run.real_keys]
    return gradients


class _SharedPrompts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float
    ) -> torch.Tensor:
        output, lse = _attend(query, key, value, layout.own, True, scale)
        if layout.across is not None:
            begin, end = layout.prompt_tokens, layout.answered_tokens
            across, across_lse = _attend(query[begin:], key[:end], value[:end], layout.across, False, scale)
            combined = torch.logaddexp(lse[:, begin:], across_lse)
            share = (across_lse - combined).exp().T[..., None]
            output[begin:] = torch.lerp(output[begin:].float(), across.float(), share).to(output.dtype)
            lse[:, begin:] = combined
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        layout, gradient = ctx.layout, gradient.contiguous()
        found = _attend_backward(gradient, query, key, value, output, lse, layout.own, True, ctx.scale)
        if layout.across is not None:
            begin, end = layout.prompt_tokens, layout.answered_tokens
            across = _attend_backward(
                *(gradient[begin:], query[begin:], key[:end], value[:end], output[begin:], lse[:, begin:]),
                *(layout.across, False, ctx.scale),
            )
            found[0][begin:] += across[0]
            found[1][:end] += across[1]
            found[2][:end] += across[2]
        return *found, None, None


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """Attention over a pack.

    Args:
        query: (T, heads, D); on a GPU in float16 or bfloat16.
        key: (T, key heads, D); ``heads`` is a multiple of ``key heads``.
        value: (T, key heads, D)
        scale: of the scores.

    Returns:
        (T, heads, D)
    """
    output: torch.Tensor = _SharedPrompts.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
    return output


def shared_prompts_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: tensors are (1, heads, T, D), the result is (1, T, heads, D)."""
    if torch.is_autocast_enabled(query.device.type):
        # As torch's own attention does: with adapters or a float32 rotary embedding, inputs can be of mixed types.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(q, k, v, kwargs[LAYOUT], scale)[None], None


AttentionInterface.register(NAME, shared_prompts_attention)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prompts: list[int], responses: list[list[int]]
) -> torch.Tensor:
    """The same attention with a mask written out: what `attend` is checked against."""
    group = torch.tensor([i for i, length in enumerate(prompts) for _ in range(length)])
    owner = torch.full_like(group, -1)
    count = 0
    for i, lengths in enumerate(responses):
        for length in lengths:
            group = torch.cat([group, torch.full((length,), i)])
            owner = torch.cat([owner, torch.full((length,), count)])
            count += 1
    seen = (group[:, None] == group) & ((owner == -1) | (owner[:, None] == owner))
    mask = seen.tril().to(query.device)
    repeated = (other.repeat_interleave(query.shape[1] // key.shape[1], 1) for other in (key, value))
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, *repeated))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def kernels_are_right(device: torch.device | str, heads: int, key_heads: int, size: int) -> bool:
    """Whether `attend` on this device gives the outputs and gradients of attention with a mask, on a small pack.

    Asked once when a training process starts on a GPU: the layout of what torch's kernels return is not documented.

    Args:
        heads: of the model's queries.
        key_heads: of its keys and values.
        size: of a head.
    """
    prompts, responses = [130, 7], [[33, 1, 64], [5]]
    tokens = sum(prompts) + sum(map(sum, responses))
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, heads, size), *[(tokens, key_heads, size)] * 2, (tokens, heads, size)]
    drawn = [torch.randn(shape, generator=generator).to(device, torch.bfloat16) for shape in shapes]
    with torch.enable_grad():
        q, k, v = given = [tensor.requires_grad_() for tensor in drawn[:3]]
        ours = attend(q, k, v, Layout(prompts, responses, device), size**-0.5)
        found = [ours, *torch.autograd.grad(ours, given, drawn[3])]
        q, k, v = exact = [tensor.detach().float().requires_grad_() for tensor in given]
        theirs = plain_attention(q, k, v, prompts, responses)
        wanted = [theirs, *torch.autograd.grad(theirs, exact, drawn[3].float())]
    return all(
        bool((a.float() - b).norm() <= 0.02 * b.norm()) for a, b in zip(found, wanted, strict=True)
    )  # bfloat16 has 8 bits
