"""An image that several rollouts of a micro-batch show goes through the vision tower once.

verl joins the pixels of a micro-batch one rollout after the other: four rollouts of a prompt are the same image four
times over, in memory and in the vision tower. Here the pixels come once, the grid of every rollout stays as it is (the
language model's side is not touched), and the tower's features are repeated where they come out of it. The tower's
gradient is the sum over the rollouts that look at an image, as before, but added before the tower's backward pass
instead of inside of it: the same numbers up to the order of additions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from recipe.critic_r1.images.encoded import PIXELS, ImageInputs

GRID = "image_grid_thw"
"""(images, 3): time, height and width of each image in patches; what the vision towers of Qwen-VL ask for."""

TOWER = "visual"
"""Name of the vision tower in the models of Qwen-VL."""

Places = list[int] | None
"""For each image of a micro-batch its place among the different ones; None when no image comes twice."""


def without_repeats(inputs: Sequence[Any]) -> tuple[list[Any], Places]:
    """The inputs of a micro-batch's rollouts with the pixels of each image once.

    Args:
        inputs: ``multi_modal_inputs`` of each rollout; None or empty for text.

    Returns:
        The same in the same order, a repeated `ImageInputs` without its pixels; and the places.
    """
    kept: list[Any] = []
    places: list[int] = []
    first: dict[str, int] = {}
    different = 0
    for item in inputs:
        images = len(item[GRID]) if item is not None and GRID in item else 0
        begin = different
        if isinstance(item, ImageInputs) and images:
            begin = first.setdefault(item.key, different)
            if begin < different:
                item = item.small
        if begin == different:
            different += images
        kept.append(item)
        places += range(begin, begin + images)
    return kept, None if different == len(places) else places


def only_pixels_apart(inputs: Sequence[Any]) -> tuple[list[Any], torch.Tensor | None]:
    """Where one rollout alone brings pixels: the inputs without them, and the pixels as they are; else None for them.

    verl joins what the rollouts bring with `torch.cat`, which copies a single tensor too: 100 MB for a large image.
    """
    bringing = [place for place, item in enumerate(inputs) if item is not None and PIXELS in item]
    if len(bringing) != 1:
        return list(inputs), None
    rest, (place,) = list(inputs), bringing
    item = rest[place]
    rest[place] = item.small if isinstance(item, ImageInputs) else {name: item[name] for name in item if name != PIXELS}
    return rest, item[PIXELS]


class _Repeated(torch.autograd.Function):
    """Rows of the different images, repeated; gradients of the repetitions are added in float32."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, sizes: list[int], places: list[int]) -> torch.Tensor:
        ctx.sizes, ctx.places = sizes, places
        pieces = torch.split(features, sizes)
        return torch.cat([pieces[place] for place in places])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        shares: list[list[torch.Tensor]] = [[] for _ in ctx.sizes]
        pieces = torch.split(gradient, [ctx.sizes[place] for place in ctx.places])
        for place, piece in zip(ctx.places, pieces, strict=True):
            shares[place].append(piece)
        sums = [share[0] if len(share) == 1 else torch.stack(share).sum(0, dtype=torch.float32) for share in shares]
        return torch.cat([part.to(gradient.dtype) for part in sums]), None, None


_repeated: Callable[[torch.Tensor, list[int], list[int]], torch.Tensor] = _Repeated.apply


def see_once(model: torch.nn.Module, places: Callable[[], Places]) -> bool:
    """Let the vision towers of a model take different images and give the features of all.

    Args:
        places: asked at each call of a tower.

    Returns:
        Whether the model has such a tower.
    """

    def different(tower: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        grid, where = kwargs["grid_thw"], places()
        if where is None:
            return None
        if len(where) != len(grid):
            raise RuntimeError(f"the vision tower is shown {len(grid)} images; this micro-batch has {len(where)}")
        firsts = [where.index(place) for place in range(max(where) + 1)]
        return args, {**kwargs, "grid_thw": grid[firsts]}

    def repeated(tower: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        where = places()
        if where is None:
            return None
        sizes = (kwargs["grid_thw"].prod(-1) // tower.spatial_merge_size**2).tolist()
        if torch.is_tensor(output):
            return _repeated(output, sizes, where)
        for name in ("pooler_output", "deepstack_features"):
            found = getattr(output, name, None)
            if torch.is_tensor(found):
                output[name] = _repeated(found, sizes, where)
            elif found is not None:
                output[name] = [_repeated(layer, sizes, where) for layer in found]
        return output

    towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] == TOWER]
    for module in towers:
        module.register_forward_pre_hook(different, with_kwargs=True)
        module.register_forward_hook(repeated, with_kwargs=True)
    return bool(towers)
