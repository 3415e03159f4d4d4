"""Prompt lengths in tokens, exactly as in training, without decoding images.

verl's own filter decodes and resizes every image to count its tokens. But their number depends on the size only, which
is in the header. So texts are tokenised in batches with one placeholder per image, and the processor's resize rule
gives the number of tokens for each.

An image is resized twice: verl passes it through qwen_vl_utils, which rounds it to whole patches within wide limits,
and the processor rounds again within its own. Both rules are applied here, since rounding twice is not the same as
once. A meter is compared with the real processor before its first use, and fails if they disagree.

The processor's libraries take half a gigabyte of memory and seconds to load, but lengths depend only on a few facts and
the tokenizer. `processor.meter_of_model` reads and checks them in a short-lived process; the meter itself needs only
a library that counts tokens (`token_count`).
"""

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

from data_prep.lengths.token_count import TokenCounter, why_slow
from data_prep.tasks.prompts import MARKER

Size = tuple[int, int]
"""Width and height in pixels."""

VERL_MIN_TOKENS = 4
VERL_MAX_TOKENS = 16_384
"""Limits of qwen_vl_utils 0.0.14 for an image, in merged tokens; verl 0.9.1 does not change them."""

VERL_MERGE = 2
"""qwen_vl_utils rounds to `patch size x 2`, whatever the model."""


class MeterError(ValueError):
    """Lengths cannot be measured for this model; the message says why and what to do."""


@dataclass(frozen=True)
class ResizeRule:
    """How an image's size is rounded to tokens."""

    factor: int
    """Side of a token in pixels."""
    least: int
    """Fewest pixels of an image; a smaller one is enlarged."""
    most: int
    """Most pixels of an image; a larger one is shrunk."""
    lift_first: bool
    """Whether a side shorter than half a token is set to one token before the area is compared with the limits."""

    def apply(self, size: Size) -> Size:
        """The size after resizing, with Python's rounding (half to even) as in both libraries."""
        width, height = size
        w, h = round(width / self.factor) * self.factor, round(height / self.factor) * self.factor
        if self.lift_first:
            w, h = max(self.factor, w), max(self.factor, h)
        if w * h > self.most:
            shrink = math.sqrt((height * width) / self.most)
            w = max(self.factor, math.floor(width / shrink / self.factor) * self.factor)
            h = max(self.factor, math.floor(height / shrink / self.factor) * self.factor)
        elif w * h < self.least:
            grow = math.sqrt(self.least / (height * width))
            w = math.ceil(width * grow / self.factor) * self.factor
            h = math.ceil(height * grow / self.factor) * self.factor
        return w, h

    def tokens(self, size: Size) -> int:
        """Merged tokens of an image that has this size after `apply`."""
        w, h = self.apply(size)
        return (w // self.factor) * (h // self.factor)


@dataclass(frozen=True)
class ProcessorFacts:
    """All that lengths depend on, read once from a real processor. Can be pickled and sent to workers."""

    first: ResizeRule | None
    """The rule of qwen_vl_utils; None when images do not pass it."""
    rule: ResizeRule
    """The processor's own rule."""
    frames: tuple[tuple[str, str] | None, ...]
    """For each number of leading images: what the chat template puts before and after a text; None when it does not
    leave the text as it is."""
    tokenizer: str
    """The tokenizer as the JSON of the `tokenizers` library."""
    slow: str | None
    """Why `fastokens` cannot count its tokens, and the slower `tokenizers` does; None when it can."""

    def to_json(self) -> str:
        """As text; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ProcessorFacts":
        """What `to_json` wrote."""
        values = json.loads(text)
        for name in ("first", "rule"):
            values[name] = values[name] and ResizeRule(**values[name])
        values["frames"] = tuple(f and (f[0], f[1]) for f in values["frames"])
        return cls(**values)


MOST_FRAMES = 8
"""Images of a prompt up to which the chat template need not be run for every prompt."""


class PromptMeter:
    """Counts the tokens of prompts with images for one processor.

    Args:
        processor: a Hugging Face processor of the Qwen2-VL or Qwen2.5-VL family, with its chat template and a tokenizer
            of the `tokenizers` library.
        verl_resize: whether images pass qwen_vl_utils first, as in verl.

    Raises:
        MeterError: the family is not known, there is no chat template, or the self-check fails.
    """

    def __init__(self, processor: Any, *, verl_resize: bool = True) -> None:
        self._set(read_facts(processor, verl_resize=verl_resize), processor, None)
        self._self_check()

    @classmethod
    def from_facts(cls, facts: ProcessorFacts, load: Any = None) -> "PromptMeter":
        """A meter of facts that were read and checked before.

        Args:
            load: makes the processor; called for the first prompt whose template has to be run (images between
                texts, or more of them than there are frames).
        """
        meter = cls.__new__(cls)
        meter._set(facts, None, load)
        return meter

    def _set(self, facts: ProcessorFacts, processor: Any, load: Any) -> None:
        self.facts = facts
        self._load = load
        if processor is not None:
            self.processor = processor
        self._count = TokenCounter(facts.tokenizer, fast=facts.slow is None)
        # A data set has few distinct sizes.
        self.image_tokens = lru_cache(maxsize=4096)(self._image_tokens)
        """Tokens of an image of this size in the prompt."""

    @cached_property
    def processor(self) -> Any:
        """The real processor."""
        return self._load()

    def _image_tokens(self, size: Size) -> int:
        if self.facts.first is not None:
            size = self.facts.first.apply(size)
        return self.facts.rule.tokens(size)

    def measure(self, prompts: Sequence[str], sizes: Sequence[Sequence[Size]]) -> list[int]:
        """Tokens of each prompt, including the chat template's generation prompt.

        Args:
            prompts: user turns, each with an `<image>` marker per image.
            sizes: for each prompt, the sizes of its images.
        """
        lengths = [0] * len(prompts)
        for with_images in (True, False):
            chosen = [i for i, s in enumerate(sizes) if bool(s) == with_images]
            if not chosen:
                continue
            texts = [self.rendered(prompts[i]) for i in chosen]
            # verl adds special tokens only to prompts that go through the processor.
            for i, count in zip(chosen, self._count(texts, special=with_images), strict=True):
                # The tokenizer counted each image's placeholder as one.
                lengths[i] = count + sum(map(self.image_tokens, sizes[i])) - len(sizes[i])
        return lengths

    def rendered(self, prompt: str) -> str:
        """The prompt in the chat template, with one placeholder per image."""
        images = prompt.count(MARKER)
        markers = MARKER * images
        frame = self.facts.frames[images] if images < len(self.facts.frames) else None
        if frame is None or prompt == markers or not prompt.startswith(markers):
            return run_template(self.processor, prompt)
        return f"{frame[0]}{prompt[len(markers) :]}{frame[1]}"

    def _self_check(self) -> None:
        """Compare with the real processor on three small images."""
        from PIL import Image

        for size in ((64, 64), (300, 97), (33, 410)):
            prompt = f"{MARKER}What is  here?\n"
            images, verl_resize = [Image.new("RGB", size)], self.facts.first is not None
            real = real_length(self.processor, prompt, images, verl_resize=verl_resize)
            ours = self.measure([prompt], [[size]])[0]
            if real != ours:
                raise MeterError(
                    f"a {size[0]}x{size[1]} image takes {real} tokens in the processor but {ours} by its rule: this"
                    " version of the processor is not supported; let verl filter (data.filter_overlong_prompts=true)"
                )


def read_facts(processor: Any, *, verl_resize: bool = True) -> ProcessorFacts:
    """The facts that a processor's lengths depend on.

    Raises:
        MeterError: the family is not known, or there is no chat template or no fast tokenizer.
    """
    image_processor = processor.image_processor
    kind = type(image_processor).__name__
    if not kind.startswith("Qwen2VL"):
        raise MeterError(
            f"{kind} is not of the Qwen2-VL family, so its resize rule is not known: leave the length limit out and let"
            " verl filter (data.filter_overlong_prompts=true)"
        )
    least, most = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
    rule = ResizeRule(image_processor.patch_size * image_processor.merge_size, least, most, False)
    if not getattr(processor, "chat_template", None):
        raise MeterError("the processor has no chat template, so no prompt can be rendered")
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise MeterError("the processor's tokenizer has no tokenizer.json; save it again with a fast tokenizer")
    factor = image_processor.patch_size * VERL_MERGE
    first = ResizeRule(factor, VERL_MIN_TOKENS * factor**2, VERL_MAX_TOKENS * factor**2, True)
    probe = "\n  probe: of the frame \n"
    frames = []
    for images in range(MOST_FRAMES + 1):
        before, found, after = run_template(processor, MARKER * images + probe).partition(probe)
        frames.append((before, after) if found else None)
    tokenizer = backend.to_str()
    return ProcessorFacts(first if verl_resize else None, rule, tuple(frames), tokenizer, why_slow(tokenizer))


def run_template(processor: Any, prompt: str) -> str:
    """The prompt as a user turn in the processor's chat template, with the generation prompt after it."""
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content_parts(prompt)}], add_generation_prompt=True, tokenize=False
    )
    return rendered


def content_parts(prompt: str) -> Any:
    """A user turn as verl passes it to the chat template: parts if there are images, plain text otherwise."""
    if MARKER not in prompt:
        return prompt
    parts: list[dict[str, str]] = []
    for place, text in enumerate(prompt.split(MARKER)):
        if place:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def real_length(processor: Any, prompt: str, images: Sequence[Any], *, verl_resize: bool = True) -> int:
    """The length by the processor itself, which resizes the images.

    Args:
        images: Pillow images, one per marker.
    """
    if verl_resize:
        fetch_image = importlib.import_module("qwen_vl_utils").fetch_image

        patch = processor.image_processor.patch_size
        images = [fetch_image({"image": image}, image_patch_size=patch) for image in images]
    text = run_template(processor, prompt)
    if not images:
        return len(processor.tokenizer(text=text, add_special_tokens=False)["input_ids"])
    return len(processor(text=[text], images=list(images), return_tensors="pt")["input_ids"][0])
