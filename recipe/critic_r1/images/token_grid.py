"""A processor that says how many tokens an image takes, and makes no pixels of it.

A prompt's tokens and position ids need the grid of each image: its size in patches, after the processor's own resize
rule. The pixels are made where they are computed on (`inputs`). So the image processor of the Qwen-VL family runs here
as it is, with all its rules, on tensors of torch's ``meta`` device from the resize on, which have a shape and no data.
"""

import copy
from typing import Any

import torch
from transformers import Qwen2VLImageProcessor


class _Measuring(Qwen2VLImageProcessor):  # type: ignore[misc]
    """Its ``pixel_values`` have a shape and no data; everything else is the real one's."""

    def resize(self, image: torch.Tensor, size: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.empty((*image.shape[:-2], size.height, size.width), dtype=image.dtype, device="meta")

    def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return images.to(device="meta", dtype=torch.float32)


def measuring(processor: Any) -> Any:
    """A copy of the processor that makes no pixels; the processor itself where its family is another."""
    image_processor = getattr(processor, "image_processor", None)
    if type(image_processor) is not Qwen2VLImageProcessor:
        return processor
    found = copy.copy(processor)
    found.image_processor = copy.copy(image_processor)
    found.image_processor.__class__ = _Measuring
    return found
