"""Requests to a model and its answers, independent of the engine.

Judging, policy evaluation and tournaments all need many prompts with images answered together, so the one protocol has
a single batch method: an in-process engine schedules the list itself, a client of a server keeps many requests in
flight.

A request that failed is a `Generation` with an `error`, not an exception and not an empty text, so that "the server
failed" is not confused with "the model wrote nothing readable".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from blake3 import blake3

IMAGE_MARKER = "<image>"
"""Placeholder of an image in a row of the training Parquet (verl's convention)."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text of a message."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image of a message: the bytes of its file (PNG, JPEG, WebP or GIF), never re-encoded."""

    data: bytes

    @cached_property
    def blake3(self) -> str:
        """BLAKE3 digest of the file's bytes, in hex."""
        return blake3(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat: `role` is `system`, `user` or `assistant`; `parts` keep their order."""

    role: str
    parts: tuple[TextPart | ImagePart, ...]

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of this turn, in order."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is sampled.

    temperature: 0 is greedy.
    top_p: probability mass to sample from, in (0, 1].
    max_tokens: longest answer, in tokens.
    n: independent answers to the same prompt.
    seed: makes sampling repeatable if the engine supports it; None leaves it to the engine.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 2048
    n: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.max_tokens < 1 or self.n < 1:
            raise ValueError(f"impossible sampling settings: {self}")
        if self.n > 1 and self.temperature == 0:
            raise ValueError(f"n={self.n} greedy answers would all be the same; set a temperature above 0")

    def for_request(self, *names: str) -> Sampling:
        """The same settings with a seed derived from `seed` and the names of the request.

        Requests with the same seed would share their random numbers, and errors would be correlated across a run, which
        no interval accounts for. Without a seed, and for greedy answers, the settings stay as they are.
        """
        if self.seed is None or self.temperature == 0:
            return self
        digest = hashlib.sha256("\0".join((str(self.seed), *names)).encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4], "big") >> 1)


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to sample from it. Two requests with equal `key` are the same request."""

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """All images of the prompt, in reading order."""
        return tuple(image for message in self.messages for image in message.images)

    @cached_property
    def key(self) -> str:
        """SHA-256 over everything that can change the answer except the model: texts, images, sampling."""
        turns = [
            [message.role, [["t", p.text] if isinstance(p, TextPart) else ["i", p.blake3] for p in message.parts]]
            for message in self.messages
        ]
        s = self.sampling
        content = [turns, float(s.temperature), float(s.top_p), s.max_tokens, s.n, s.seed]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Generation:
    """The answers to one request.

    texts: `sampling.n` answers without special tokens; empty when `error` is set.
    finish_reasons: per text, `stop`, `length` (cut off at `max_tokens`) or `refusal` (of the model, without text).
    prompt_tokens, completion_tokens: as counted by the engine, over all n answers; 0 when unknown.
    error: why there is no answer; None on success.
    failure: the kind of error: `failed` is retried by the next run, as is `rejected` (the prompt does not fit the
        model); `filtered` (by a content filter) is final.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    failure: Literal["failed", "rejected", "filtered"] = "failed"

    @property
    def final(self) -> bool:
        """Whether the request is not repeated: answered or filtered."""
        return self.error is None or self.failure == "filtered"

    @property
    def finished(self) -> tuple[bool, ...]:
        """Per text, whether the model ended it; False when the token limit did."""
        reasons = self.finish_reasons or ("stop",) * len(self.texts)
        return tuple(reason != "length" for reason in reasons)

    @property
    def text(self) -> str:
        """The only answer of a request with n = 1. Raises ValueError when there is not exactly one."""
        if len(self.texts) != 1:
            raise ValueError(f"expected one answer, have {len(self.texts)} (error: {self.error})")
        return self.texts[0]


class Generator(Protocol):
    """Anything that answers requests: an engine in this process, a client of a server, a script in a test."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answer all requests together; the result has the order and the length of the input."""
        ...


def messages_from_row(prompt: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Messages from the `prompt` and `images` columns of a task row.

    The text is split on `<image>` as verl's dataset class does it, so that a model is evaluated on the prompts that it
    was trained on.

    Args:
        prompt: turns with `role` and `content`; `content` is text with one marker per image.
        images: one mapping per image with its file's `bytes`.

    Raises:
        ValueError: the text is empty, the number of markers is not that of the images, or an image has no bytes.
    """
    if not all(isinstance(turn.get("content"), str) for turn in prompt or [{}]):
        raise ValueError("the prompt is empty, or a turn of it has no text")
    files = []
    for number, image in enumerate(images, start=1):
        data = image.get("bytes")
        if not data:
            raise ValueError(f"image {number} of the row has no bytes: write the data again with images embedded")
        files.append(bytes(data))
    markers = sum(turn["content"].count(IMAGE_MARKER) for turn in prompt)
    if markers != len(files):
        raise ValueError(f"the prompt has {markers} {IMAGE_MARKER} marker(s) but the row has {len(files)} image(s)")
    remaining = map(ImagePart, files)
    return tuple(Message(str(turn["role"]), parts_of(turn["content"], remaining)) for turn in prompt)


def parts_of(text: str, images: Iterator[ImagePart]) -> tuple[TextPart | ImagePart, ...]:
    """The parts of a text with an image at each `<image>`."""
    segments = re.split(f"({IMAGE_MARKER})", text)
    return tuple(next(images) if part == IMAGE_MARKER else TextPart(part) for part in segments if part)
