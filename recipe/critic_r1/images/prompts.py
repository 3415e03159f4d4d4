"""A prompt is computed once for all of its responses: which rows share one, how they are packed, what is put back.

verl's engine computes ``[prompt | response]`` for every rollout. Here the rollouts of a prompt are one group, and a
micro-batch is one sequence: all of its prompts, then the responses of each prompt in turn. Positions are those of the
rollouts, attention is that of `prompt_attention`, and the language model's head sees only positions that predict a
response token. Results return to the places at which verl looks for them; at other places they are zero, and nothing
reads those.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils
from verl.workers.engine.fsdp import transformer_impl

from recipe.critic_r1.images.encoded import ImageInputs
from recipe.critic_r1.images.prompt_attention import LAYOUT, Layout

GROUPS = "prompt_groups"
"""Column (rows, 2) of a batch whose micro-batches are packed: number of the row's group, tokens of its prompt."""


@dataclass(frozen=True)
class Group:
    """Rollouts of one prompt."""

    prompt: int
    """Tokens of the prompt."""
    rows: tuple[int, ...]
    responses: tuple[int, ...]
    """Tokens of each row's response."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return self.prompt + sum(self.responses)

    def halves(self) -> "tuple[Group, Group]":
        """The group in two, each with the prompt."""
        middle = len(self.rows) // 2
        return (
            Group(self.prompt, self.rows[:middle], self.responses[:middle]),
            Group(self.prompt, self.rows[middle:], self.responses[middle:]),
        )


def _inputs(data: TensorDict) -> list[Any]:
    if "multi_modal_inputs" not in data.keys():  # noqa: SIM118  (a TensorDict)
        return [None] * len(data)
    return [getattr(item, "data", item) for item in data["multi_modal_inputs"]]


def _same_images(one: Any, other: Any) -> bool:
    if isinstance(one, ImageInputs) or isinstance(other, ImageInputs):
        return isinstance(one, ImageInputs) and isinstance(other, ImageInputs) and one.key == other.key
    if not one or not other:
        return not one and not other
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def groups_of(data: TensorDict, image_tokens: Sequence[int]) -> list[Group] | None:
    """The rows of a batch by prompt, in order of appearance: the same tokens, positions and images.

    Args:
        data: with nested ``input_ids``, ``position_ids`` and ``prompts``.
        image_tokens: placeholders of images and videos.

    Returns:
        None when this batch has to be computed verl's way: its prompts are not known, or an image or a video is in a
        response, or a video is in a prompt.
    """
    prompts = data.get("prompts", None)
    distilled = tensordict_utils.get_non_tensor_data(data, "distillation_use_topk", False)
    if prompts is None or not prompts.is_nested or distilled:
        return None
    inputs = _inputs(data)
    if any(item and any("video" in name for name in item.keys()) for item in inputs):  # noqa: SIM118
        return None
    lengths = prompts.offsets().diff().tolist()
    rows, positions = data["input_ids"].unbind(), data["position_ids"].unbind()
    placeholders = torch.tensor(list(image_tokens))
    found: dict[bytes, list[list[int]]] = {}
    for i, (length, row) in enumerate(zip(lengths, rows, strict=True)):
        if length < 1 or torch.isin(row[length:].cpu(), placeholders).any():
            return None
        alike = found.setdefault(row[:length].cpu().numpy().tobytes(), [])
        for members in alike:
            first = members[0]
            if _same_images(inputs[first], inputs[i]) and torch.equal(
                positions[first][..., :length], positions[i][..., :length]
            ):
                members.append(i)
                break
        else:
            alike.append([i])
    groups = [members for alike in found.values() for members in alike]
    return [
        Group(lengths[members[0]], tuple(members), tuple(len(rows[i]) - lengths[i] for i in members))
        for members in sorted(groups)
    ]


def cut(
    groups: list[Group], agree: Callable[[list[int]], list[int]], tokens: int | None = None, rows: int | None = None
) -> list[list[int]]:
    """Micro-batches of whole groups, the largest first; every rank gets the same number of them.

    A group that is too large is halved until its parts fit, and each part shares its prompt.

    Args:
        agree: the largest value over all ranks, for each of the values.
        tokens: bound of what is computed in a micro-batch, a prompt counted once.
        rows: without ``tokens``, rows of a micro-batch. A group of more rows is still one micro-batch if it has no more
            tokens than so many of the longest rows would have by themselves: what a micro-batch holds at the worst is
            as before.

    Raises:
        ValueError: a row alone is over the bound, or there are fewer rows on a rank than micro-batches. On every rank.
    """
    longest = max(group.prompt + length for group in groups for length in group.responses)
    limit = tokens if tokens is not None else rows * longest  # type: ignore[operator]
    too_long, least_rows = agree([longest - limit, -sum(len(group.rows) for group in groups)])
    if too_long > 0:
        raise ValueError(f"a rollout has {too_long} tokens more than the {limit} of a micro-batch")

    def weight(group: Group) -> int:
        return group.tokens if rows is None else min(len(group.rows), rows)

    capacity = limit if rows is None else rows
    pieces = _halved(groups, lambda group: group.tokens > limit)
    (count,) = agree([-(-sum(map(weight, pieces)) // capacity)])
    while True:
        if count > -least_rows:
            raise ValueError(f"{count} micro-batches are needed, but a rank has only {-least_rows} rollouts")
        while len(pieces) < count:
            largest = max((piece for piece in pieces if len(piece.rows) > 1), key=lambda piece: piece.tokens)
            pieces = _halved(pieces, lambda group, largest=largest: group is largest)  # type: ignore[misc]
        packed = _packed(pieces, count, weight)
        (over,) = agree([int(any(sum(map(weight, part)) > capacity for part in packed))])
        if not over:
            break
        count += 1
    packed.sort(key=lambda part: -sum(group.tokens for group in part))
    return [[row for group in part for row in group.rows] for part in packed]


def _halved(groups: list[Group], too_large: Callable[[Group], bool]) -> list[Group]:
    done, left = [], groups[::-1]
    while left:
        group = left.pop()
        if too_large(group) and len(group.rows) > 1:
            left += group.halves()[::-1]
        else:
            done.append(group)
    return done


def _packed(pieces: list[Group], count: int, weight: Callable[[Group], int]) -> list[list[Group]]:
    """The pieces in ``count`` parts, none empty: the heaviest piece first, always into the lightest part."""
    parts: list[list[Group]] = [[] for _ in range(count)]
    loads = [(0, 0, i) for i in range(count)]
    for piece in sorted(pieces, key=lambda piece: (-weight(piece), -piece.tokens, piece.rows)):
        load, tokens, i = heapq.heappop(loads)
        parts[i].append(piece)
        heapq.heappush(loads, (load + weight(piece), tokens + piece.tokens, i))
    return parts


class Pack:
    """A micro-batch as one sequence."""

    def __init__(self, micro_batch: TensorDict) -> None:
        """
        Args:
            micro_batch: with the column `GROUPS`, on the device of the model.
        """
        ids = micro_batch["input_ids"]
        self._offsets, self._device = ids.offsets(), ids.device
        starts = self._offsets.tolist()
        members: dict[int, list[int]] = {}
        prompts: list[int] = []
        for i, (number, prompt) in enumerate(micro_batch[GROUPS].tolist()):
            members.setdefault(number, []).append(i)
            prompts.append(prompt)
        lengths = [end - begin - prompt for begin, end, prompt in zip(starts, starts[1:], prompts, strict=False)]
        groups = sorted(members.values(), key=lambda rows: not any(lengths[i] for i in rows))
        self.leaders = [rows[0] for rows in groups]
        """The row of each prompt whose images are shown."""
        order = [i for rows in groups for i in rows]
        taken = [(starts[i], starts[i] + prompts[i]) for i in self.leaders]
        taken += [(starts[i] + prompts[i], starts[i + 1]) for i in order]
        self._taken = self._indices(taken)
        self.layout = Layout(
            [prompts[i] for i in self.leaders], [[lengths[i] for i in rows] for rows in groups], self._device
        )
        # A response's first token is predicted where its prompt ends, the others where the one before is.
        predicting: list[list[tuple[int, int]]] = [[] for _ in order]
        end, begin = 0, self.layout.prompt_tokens
        for rows in groups:
            end += prompts[rows[0]]
            for i in rows:
                if lengths[i]:
                    predicting[i] = [(end - 1, end), (begin, begin + lengths[i] - 1)]
                begin += lengths[i]
        self.predicting = self._indices([span for spans in predicting for span in spans])
        """Places in the pack that predict a response token, row by row."""
        spans = [(starts[i] + prompts[i], starts[i + 1]) for i in range(len(lengths))]
        self._predicted = self._indices(spans)
        self._counts = torch.tensor([0, *lengths], device=self._device).cumsum(0)

    def _indices(self, spans: list[tuple[int, int]]) -> torch.Tensor:
        pieces = [torch.arange(*span) for span in spans]
        return (torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.long)).to(self._device)

    def inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model is called with, apart from images, and what verl needs to make sense of its output."""
        ids, positions = micro_batch["input_ids"].values(), micro_batch["position_ids"].values()
        labels = ids[self._predicted]
        temperature = micro_batch["temperature"]
        each = temperature if torch.is_tensor(temperature) else torch.tensor([temperature] * len(micro_batch))
        model_inputs = {
            "input_ids": ids[self._taken][None],
            "attention_mask": None,
            "position_ids": positions[..., self._taken].unsqueeze(-2),
            LAYOUT: self.layout,
        }
        if tensordict_utils.get_non_tensor_data(micro_batch, "use_fused_kernels", False):
            model_inputs |= {"temperature": temperature, "return_dict": True, "shift_labels": labels[None]}
        output_args = {
            "temperature_is_one": transformer_impl._is_scalar_unit_temperature(temperature),
            "input_ids_rmpad_rolled": labels,
            "temperature_rmpad": each.to(self._device, torch.float32).repeat_interleave(self._counts.diff()),
            "pad_size": 0,
        }
        return model_inputs, output_args

    def predicted_alone(self, micro_batch: TensorDict) -> TensorDict:
        """The micro-batch as verl's reading of outputs takes it: packed rows, of predicted tokens only."""
        labels = micro_batch["input_ids"].values()[self._predicted]
        rows = micro_batch.copy()
        rows["input_ids"] = torch.nested.nested_tensor_from_jagged(labels, self._counts)
        tensordict_utils.assign_non_tensor(rows, use_remove_padding=True)
        return rows

    def put_back(self, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of predicted tokens at the places of whole rollouts that predict them."""
        whole = {}
        for name, nested in output.items():
            found = nested.values()
            zeros = found.new_zeros(int(self._offsets[-1]), *found.shape[1:])
            # The last token of a row predicts nothing: its place takes the value of no other row.
            placed = zeros.index_copy(0, self._predicted - 1, found)
            whole[name] = torch.nested.nested_tensor_from_jagged(placed, self._offsets)
        return whole


def show_predicting(text_model: torch.nn.Module, pack: Callable[[], Pack | None]) -> None:
    """Let the last norm of a language model, and so its head, see only the places of a pack that predict a token.

    Args:
        pack: asked at each call; None: every place.
    """

    def select(norm: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found = pack()
        return None if found is None else (args[0][:, found.predicting], *args[1:])

    text_model.norm.register_forward_pre_hook(select)  # type: ignore[union-attr]


def text_model_of(model: torch.nn.Module) -> torch.nn.Module | None:
    """The language model in a model for images and text, wrapped or not; None when there is no such part."""
    for name, module in model.named_modules():
        if name.replace("._fsdp_wrapped_module", "").rpartition(".")[2] == "language_model":
            inner: torch.nn.Module = getattr(module, "_fsdp_wrapped_module", module)
            if hasattr(inner, "norm") and hasattr(inner, "layers"):
                return inner
    return None
