"""The one definition of a preference pair and of a task made from it.

Every step of data preparation speaks these records: a source yields `PreferencePair`s, an order turns a pair into a
`PreferenceTask`, a task knows its row (`row.py`).

Images are carried as the bytes that the source shipped. They are hashed and measured but never decoded and encoded
again, so a row's image is the very image the annotators saw. They may be views of a buffer (see `views.py`).

Do not change the records of a pair. They are not frozen only because a frozen dataclass takes four times as long to
create, and a conversion creates two per row.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, TypeVar

from data_prep.tasks.prompts import PromptTemplate, get_template, policy_prompt, valid_text
from data_prep.tasks.row import EMBEDDED_IMAGES, SCHEMA, HasRow, Image, Row, row_schema

__all__ = [
    "EMBEDDED_IMAGES",
    "LABELS",
    "SCHEMA",
    "Image",
    "PolicyTask",
    "PreferencePair",
    "PreferenceTask",
    "Preferred",
    "Split",
    "content_id",
    "row_schema",
]

T = TypeVar("T")

Preferred = Literal[0, 1, "tie"]
"""Index of the better response, or a tie."""

Split = str
"""`train`, `val` or `test`: the first part of the shard's file name."""

LABELS = ("1", "2", "tie")
"""What `reward_model.ground_truth` may hold in a critic row."""


@dataclass
class PreferencePair:
    """One question about images, two responses, and which of them is better."""

    source: str
    """Short name of the data set, for example `rlhf_v`."""
    images: Sequence[Image]
    """The images: those of the question, then those of the responses; may be empty."""
    question: str
    """The question, without the image markers at its ends."""
    responses: tuple[str, str]
    """The two responses in the order of the source."""
    preferred: Preferred
    """Which response is better."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else the source says (id, annotator, gap of the scores, ...); JSON-serialisable."""
    response_images: tuple[int, int] = (0, 0)
    """How many of the last images belong to the first and to the second response; the others are the question's. A
    response with images has one `<image>` marker for each of them, or none: then they follow its text."""

    _pair_id: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def pair_id(self) -> str:
        """32 hex digits over source, images, question, responses and label: equal content, equal id."""
        # cached_property takes a lock in Python 3.11.
        if self._pair_id is None:
            images = [image.blake3 for image in self.images]
            belongs = [str(n) for n in self.response_images] if any(self.response_images) else []
            self._pair_id = content_id(
                self.source, *images, self.question, *self.responses, str(self.preferred), *belongs
            )
        return self._pair_id

    @property
    def contents(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Of the question and of each response: the text and the digests of its images."""
        digests = [image.blake3 for image in self.images]
        first, second = self.response_images
        start = len(digests) - first - second
        return (
            (self.question, *digests[:start]),
            (self.responses[0], *digests[start : start + first]),
            (self.responses[1], *digests[start + first :]),
        )

    @property
    def same_responses(self) -> bool:
        """Whether nobody can prefer one of the responses: equal texts with equal images."""
        if self.responses[0].strip() != self.responses[1].strip():
            return False
        _, first, second = self.contents
        return first[1:] == second[1:]

    @property
    def judgement(self) -> tuple[str, int]:
        """What is compared, whichever response the source lists first, and what is said of it.

        Returns:
            the key of `compared_key`; and 0 or 1 for the place of the better response among the sorted ones, 2 for a
            tie. Equal keys with different numbers contradict each other.
        """
        question, *responses = self.contents
        key, (first, second) = compared_key(question, responses)
        return key, 2 if self.preferred == "tie" else self.preferred ^ (second < first)

    def swap(self) -> "PreferencePair":
        """The same judgement with the two responses in the other order."""
        first, second = self.responses
        better: Preferred = "tie" if self.preferred == "tie" else 0 if self.preferred else 1
        if not any(self.response_images):
            return replace(self, responses=(second, first), preferred=better)
        images, counts = responses_swapped(self.images, self.response_images), self.response_images
        counts = counts[1], counts[0]
        return replace(self, images=images, responses=(second, first), preferred=better, response_images=counts)

    def ground_truth(self, order: int) -> str:
        """`"1"`, `"2"` or `"tie"` when the responses are shown in `order` (0 as listed, 1 swapped)."""
        if self.preferred == "tie":
            return "tie"
        return "1" if self.preferred == order else "2"


def responses_swapped(images: Sequence[T], response_images: Sequence[int]) -> tuple[T, ...]:
    """The images, or what is known of each, in the order that they have once the two responses are swapped."""
    first, second = response_images
    start = len(images) - first - second
    return (*images[:start], *images[start + first :], *images[start : start + first])


def content_id(*parts: str) -> str:
    """32 hex digits of a hash over `parts`; each part's length is hashed too, so parts cannot run together."""
    lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
    return hashlib.sha256(lengths + "".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def compared_key(question: tuple[str, ...], responses: Sequence[tuple[str, ...]]) -> tuple[str, list[tuple[str, ...]]]:
    """What one judgement compares: a key that ignores case, blanks and the order of the responses.

    Args:
        question: its text, and the digests of its images.
        responses: the same of each.

    Returns:
        32 hex digits, and the responses in the spelling that is sorted; as given where some differ in nothing else.
    """
    spelled = [_spelled(part) for part in responses]
    if len(set(spelled)) < len(spelled):
        spelled = list(responses)
    parts = [_spelled(question), *sorted(spelled)]
    return content_id(*(str(len(part)) for part in parts), *chain.from_iterable(parts)), spelled


def _spelled(part: tuple[str, ...]) -> tuple[str, ...]:
    text, *digests = part
    return (" ".join(text.casefold().split()), *digests)


@dataclass
class PreferenceTask(HasRow):
    """A pair shown in one order with one template: what the judge reads and the verdict it must reach."""

    pair: PreferencePair
    order: int
    """0: the responses as the source lists them; 1: swapped."""
    split: Split = "train"
    index: int = 0
    """Ordinal of the source row this task came from."""
    template: PromptTemplate = field(default_factory=lambda: get_template("critic"))
    ties: bool = False
    """Whether the prompt offers a tie as a verdict."""
    label_flipped: bool = False
    """Whether the label was flipped on purpose (control experiments only)."""

    @property
    def shown(self) -> tuple[str, str]:
        """The two responses in the order in which the prompt shows them."""
        first, second = self.pair.responses
        return (second, first) if self.order else (first, second)

    @property
    def shown_images(self) -> tuple[int, int]:
        """How many of the last images belong to each of the shown responses."""
        first, second = self.pair.response_images
        return (second, first) if self.order else (first, second)

    @property
    def ground_truth(self) -> str:
        """The label of this task, after a flip if there was one."""
        truth = self.pair.ground_truth(self.order)
        return {"1": "2", "2": "1"}.get(truth, truth) if self.label_flipped else truth

    _prompt: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def prompt(self) -> str:
        """The user turn, with one `<image>` marker for each image and all free text neutralised."""
        if self._prompt is None:
            pair, (first, second) = self.pair, self.shown
            counts = self.shown_images
            n_images = len(pair.images) - sum(counts)
            self._prompt = self.template.render(
                pair.question, first, second, n_images=n_images, ties=self.ties, response_images=counts
            )
        return self._prompt

    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row."""
        pair = self.pair
        first, second = self.shown
        source_id, meta = meta_texts(pair.meta)
        images, counts = tuple(pair.images), None
        if any(pair.response_images):
            counts = list(self.shown_images)
            images = responses_swapped(images, pair.response_images) if self.order else images
        # Positional: keyword arguments take three times as long.
        return Row(
            f"critic/{pair.source}",
            self.prompt,
            images,
            "critic",
            self.ground_truth,
            self.index,
            self.split,
            pair.pair_id,
            self.order,
            valid_text(pair.question),
            valid_text(first),
            valid_text(second),
            None,
            self.template.name,
            self.label_flipped,
            prompt_tokens,
            known_hashes(images),
            source_id,
            meta,
            counts,
        )


def swapped_row(row: Row, *, ties: bool) -> Row:
    """The row of the same pair with its responses in the other order; the length of its prompt is not measured again.

    Args:
        ties: whether the prompt offers a tie.
    """
    first, second = row.response_2 or "", row.response_1 or ""
    template = get_template(row.template or "")
    shown = row.response_images or [0, 0]
    counts = (shown[1], shown[0])
    prompt = template.render(
        row.question or "",
        first,
        second,
        n_images=len(row.images) - sum(counts),
        ties=ties,
        response_images=counts,
    )
    truth = {"1": "2", "2": "1"}.get(row.ground_truth, row.ground_truth)
    order = 1 - (row.order or 0)
    if any(counts):
        images = responses_swapped(row.images, shown)
        row = row._replace(images=images, image_blake3=known_hashes(images), response_images=list(counts))
    return row._replace(prompt=prompt, ground_truth=truth, order=order, response_1=first, response_2=second)


@dataclass(frozen=True)
class PolicyTask(HasRow):
    """A plain question about images with a known answer: what the policy, not the judge, is asked."""

    source: str
    images: tuple[Image, ...]
    question: str
    answer: str
    split: Split = "train"
    index: int = 0
    kind: str = ""
    """Of the question, where a source has several; in the row's meta."""

    @property
    def prompt(self) -> str:
        """The question after its image markers."""
        return policy_prompt(self.question, len(self.images))

    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row."""
        return Row(
            data_source=f"policy/{self.source}",
            prompt=self.prompt,
            images=self.images,
            ability="vqa",
            ground_truth=self.answer,
            index=self.index,
            split=self.split,
            pair_id=content_id(self.source, *(i.blake3 for i in self.images), self.question, self.answer),
            question=valid_text(self.question),
            prompt_tokens=prompt_tokens,
            image_blake3=known_hashes(self.images),
            meta=meta_texts({"kind": self.kind})[1] if self.kind else None,
        )


def known_hashes(images: Sequence[Image]) -> list[str]:
    """The digests of the images that were hashed in full."""
    return [digest for i in images if (digest := i.blake3)[0] != "~"]


def meta_texts(meta: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """`source_id` and `meta` of a row: the id that the source gave, and everything as JSON."""
    if not meta:
        return None, None
    return valid_text(str(meta["id"])) if "id" in meta else None, _META.encode(meta)


_META = json.JSONEncoder(ensure_ascii=True, sort_keys=True, default=str)
"""Created once: `json.dumps` with options creates a new encoder at every call."""
