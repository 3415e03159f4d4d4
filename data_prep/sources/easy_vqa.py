"""easy-VQA as critic data: a small world with English questions.

The package `easy-vqa` ships 4,000 training and 1,000 test images of one coloured shape, with 48,248 questions in 107
forms that have 13 answers. A question is about the shape or about the colour: it asks for it, asks whether it is there,
or whether it is absent. So critic pairs can come from some kinds of question, and the policy can be measured on kinds
that were never judged.

The set says what an image shows in its questions only. `load` leaves out images whose questions do not settle both the
shape and the colour: 422 of 4,000 and 112 of 1,000.
"""

import io
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal, get_args

from data_prep.tasks.ordering import seeded_fraction
from data_prep.tasks.pairwise import Image

SOURCE = "easy_vqa"
SIDE = 56
"""Pixels of a side; see `data_prep.sources.digits.SIDE`."""

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")

Part = Literal["train", "test"]

Kind = Literal["shape", "shape_there", "shape_absent", "color", "color_there", "color_absent"]
"""What a question asks: for the shape or the colour, whether one is there, or whether one is absent."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_SHAPE = re.compile(rf"\b(?:{'|'.join(SHAPES)})\b")
_COLOR = re.compile(rf"\b(?:{'|'.join(COLORS)})\b")
_ABSENT = re.compile(r"\b(?:not|no)\b")


@lru_cache(maxsize=256)
def kind_of(question: str) -> Kind:
    """The kind of a question of the set.

    >>> [kind_of(q) for q in ("what is the red shape?", "what color is the circle?", "is there not a red shape?")]
    ['shape', 'color', 'color_absent']

    Raises:
        ValueError: the question has none of the set's forms.
    """
    if question.startswith("what"):
        return "color" if " color " in question else "shape"
    absent = _ABSENT.search(question) is not None
    if _COLOR.search(question):
        return "color_absent" if absent else "color_there"
    if _SHAPE.search(question):
        return "shape_absent" if absent else "shape_there"
    raise ValueError(f"not a question of easy-VQA: {question!r}")


@dataclass(frozen=True)
class Seen:
    """What an image shows."""

    shape: str
    color: str

    def answer(self, question: str) -> str:
        """The answer to a question of the set about an image that shows this.

        >>> Seen("circle", "red").answer("is no blue shape present?")
        'yes'
        """
        kind = kind_of(question)
        if kind in ("shape", "color"):
            return str(getattr(self, kind))
        return "yes" if self.is_named_in(question) != kind.endswith("absent") else "no"

    def is_named_in(self, question: str) -> bool:
        """Whether every shape and colour in the question is this one's."""
        return all(
            word is None or word[0] == mine
            for word, mine in ((_SHAPE.search(question), self.shape), (_COLOR.search(question), self.color))
        )

    def allows(self, question: str, answer: str) -> bool:
        """Whether the set may have this question and answer about an image that shows this."""
        return answer == self.answer(question) and (not question.startswith("what") or self.is_named_in(question))


ALL_SEEN = tuple(Seen(shape, color) for shape, color in product(SHAPES, COLORS))
"""Everything that an image can show."""


@lru_cache(maxsize=1024)
def _allowed(question: str, answer: str) -> frozenset[Seen]:
    return frozenset(seen for seen in ALL_SEEN if seen.allows(question, answer))


@dataclass(frozen=True)
class EasyImage:
    """One image, what it shows, and the questions about it."""

    part: Part
    index: int
    """Number of the image in its part."""
    seen: Seen
    questions: tuple[str, ...]
    """In the order of the set."""
    file: str
    """Path of the image as published, 64 x 64 pixels."""

    @cached_property
    def png(self) -> bytes:
        """56 x 56 RGB PNG; the same bytes at every call."""
        import PIL.Image

        stream = io.BytesIO()
        with PIL.Image.open(self.file) as image:
            image.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC).save(stream, "PNG")
        return stream.getvalue()

    @property
    def image(self) -> Image:
        """The record that tasks carry."""
        return Image(self.png, f"easy_vqa/{self.part}/{self.index:04d}.png")


@lru_cache(maxsize=2)
def load(part: Part) -> list[EasyImage]:
    """The images of a part of the set whose questions settle what they show.

    Raises:
        ImportError: easy-vqa is missing; the message says how to get it.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise ImportError("the images of shapes need easy-vqa: install critic-r1[easy-vqa]") from error
    if part == "train":
        texts, files = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    else:
        texts, files = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    asked: dict[int, list[tuple[str, str]]] = {}
    for question, answer, index in zip(*texts, strict=True):
        asked.setdefault(index, []).append((question, answer))
    found = []
    for index in sorted(files):
        told = asked.get(index, [])
        possible = frozenset(ALL_SEEN).intersection(*(_allowed(*question) for question in told))
        if len(possible) == 1:
            (seen,) = possible
            found.append(EasyImage(part, index, seen, tuple(question for question, _ in told), files[index]))
    return found


def easy_split(seed: int, n_warm_start: int, n_rl: int, n_test: int) -> dict[str, list[EasyImage]]:
    """Images for `warm_start` and `rl`, from the training part of the set, and for `test`, from its test part, by seed.

    The test images depend on the seed and on `n_test` only. The warm start gets every shape in every colour equally
    often, to within one.

    Raises:
        ValueError: more images are asked for than exist.
    """
    wanted, parts = {"train": n_warm_start + n_rl, "test": n_test}, {}
    for part in get_args(Part):
        images = load(part)
        if min(n_warm_start, n_rl, n_test) < 0 or wanted[part] > len(images):
            raise ValueError(f"{wanted[part]} images of the {part} part asked for, {len(images)} exist")
        parts[part] = sorted(images, key=lambda image: seeded_fraction(seed, SOURCE, image.part, image.index))
    earlier = Counter[Seen]()
    rounds = {}
    for image in parts["train"]:
        rounds[image.index] = earlier[image.seen]
        earlier[image.seen] += 1
    warm_start = sorted(parts["train"], key=lambda image: rounds[image.index])[:n_warm_start]
    taken = {image.index for image in warm_start}
    rl = [image for image in parts["train"] if image.index not in taken][:n_rl]
    return {"test": parts["test"][:n_test], "warm_start": warm_start, "rl": rl}


@lru_cache(maxsize=1)
def questions() -> tuple[str, ...]:
    """The different questions of the set, sorted."""
    return tuple(sorted({question for image in load("train") for question in image.questions}))
