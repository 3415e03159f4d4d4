"""Critic tasks at a run's limits: each image as large as the pixel limit, each prompt as long as the token limit."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from omegaconf import DictConfig

from data_prep.lengths.meter import PromptMeter
from data_prep.lengths.processor import load_processor
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask
from data_prep.writer import write_parquet

TEMPLATE = "compact"
"""The shortest prompt template; the question fills the prompt up."""

STEP = 28
"""Pixels by which an image is made smaller until it leaves room for the text."""


@dataclass(frozen=True)
class Limits:
    """What every row of the data has."""

    side: int
    """Of the square image, in pixels."""
    prompt_tokens: int
    """Of the prompt, image included."""
    file_bytes: float
    """Mean size of an image file."""


def photo(size: tuple[int, int], seed: int, quality: int = 75) -> bytes:
    """A JPEG of smooth noise, as hard to compress as a photograph: 640 x 480 pixels take about 80 kB."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_limit_tasks(model: Path, config: DictConfig, rows: int, folder: Path) -> Limits:
    """Write ``train-00000.parquet``, ... with ``rows`` tasks and ``val-00000.parquet`` with one.

    Args:
        model: folder whose processor the run uses.
        config: the run; its pixel limits and ``data.max_prompt_length`` are the sizes.
        rows: of the training data, all different, so that no cache helps.
        folder: made when it does not exist.

    Raises:
        ValueError: not even a small image leaves room for the text.
    """
    limits = config.data.mm_processor_kwargs or {}
    meter = PromptMeter(load_processor(str(model), limits.get("min_pixels"), limits.get("max_pixels")))
    longest = int(config.data.max_prompt_length)
    side = math.isqrt(int(limits.get("max_pixels") or longest * STEP**2))
    while (room := longest - _length(meter, "", side)) < 1:
        side -= STEP
        if side < STEP:
            raise ValueError(f"data.max_prompt_length={longest} leaves no room for an image and a question")

    sizes: list[int] = []

    def pairs(first: int, count: int) -> Iterator[PreferencePair]:
        for seed in range(first, first + count):
            image = Image(photo((side, side), seed), f"{seed}.jpg")
            sizes.append(len(image.data or b""))
            yield PreferencePair("rehearsal", [image], _question(room, seed), ("1", "2"), preferred=0)

    def tasks() -> Iterator[PreferenceTask]:
        for split, first, count in (("train", 0, rows), ("val", rows, 1)):
            yield from preference_tasks(pairs(first, count), split=split, template=TEMPLATE)

    write_parquet(tasks(), folder)
    found = _length(meter, _question(room, 0), side)
    return Limits(side, found, sum(sizes) / len(sizes))


def _question(tokens: int, seed: int) -> str:
    """Random digits: the tokenizers of the family take each for a token of its own, whatever stands beside it."""
    return "".join(map(str, np.random.default_rng(seed).integers(0, 10, tokens)))


def _length(meter: PromptMeter, question: str, side: int) -> int:
    pair = PreferencePair("rehearsal", [Image(b"")], question, ("1", "2"), preferred=0)
    (task,) = preference_tasks([pair], template=TEMPLATE, orders="as_is")
    return meter.measure([task.prompt], [[(side, side)]])[0]
