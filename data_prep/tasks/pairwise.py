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
from typing import Any, Literal

from data_prep.tasks.prompts import Wording, get_wording, policy_prompt, valid_text
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
    """The images in the order in which the prompt shows them; may be empty."""
    question: str
    """The question without image markers."""
    responses: tuple[str, str]
    """The two responses in the order of the source."""
    preferred: Preferred
    """Which response is better."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else the source says (id, annotator, gap of the scores, ...); JSON-serialisable."""

    _pair_id: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def pair_id(self) -> str:
        """32 hex digits over source, images, question, responses and label: equal content, equal id."""
        # cached_property takes a lock in Python 3.11.
        if self._pair_id is None:
            images = [image.blake3 for image in self.images]
            self._pair_id = content_id(self.source, *images, self.question, *self.responses, str(self.preferred))
        return self._pair_id

    @property
    def judgement(self) -> tuple[str, int]:
        """What is compared, whichever response the source lists first, and what is said of it.

        Returns:
            the key of `compared_key`; and 0 or 1 for the place of the better response among the sorted ones, 2 for a
            tie. Equal keys with different numbers contradict each other.
        """
        key, (first, second) = compared_key(self.images, self.question, self.responses)
        return key, 2 if self.preferred == "tie" else self.preferred ^ (second < first)

    def swap(self) -> "PreferencePair":
        """The same judgement with the two responses in the other order."""
        first, second = self.responses
        better: Preferred = "tie" if self.preferred == "tie" else 0 if self.preferred else 1
        return replace(self, responses=(second, first), preferred=better)

    def ground_truth(self, order: int) -> str:
        """`"1"`, `"2"` or `"tie"` when the responses are shown in `order` (0 as listed, 1 swapped)."""
        if self.preferred == "tie":
            return "tie"
        return "1" if self.preferred == order else "2"


def content_id(*parts: str) -> str:
    """32 hex digits of a hash over `parts`; each part's length is hashed too, so parts cannot run together."""
    lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
    return hashlib.sha256(lengths + "".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def compared_key(images: Sequence[Image], question: str, responses: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What one judgement compares: a key that ignores case, blanks and the order of the responses.

    Returns:
        32 hex digits, and the responses in the spelling that is sorted; as given where some differ in nothing else.
    """
    spelled = [" ".join(text.casefold().split()) for text in responses]
    if len(set(spelled)) < len(spelled):
        spelled = list(responses)
    asked = " ".join(question.casefold().split())
    return content_id(*(image.blake3 for image in images), asked, *sorted(spelled)), spelled


@dataclass
class PreferenceTask(HasRow):
    """A pair shown in one order with one wording: what the judge reads and the verdict it must reach."""

    pair: PreferencePair
    order: int
    """0: the responses as the source lists them; 1: swapped."""
    split: Split = "train"
    index: int = 0
    """Ordinal of the source row this task came from."""
    wording: Wording = field(default_factory=lambda: get_wording("critic"))
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
            self._prompt = self.wording.render(pair.question, first, second, n_images=len(pair.images), ties=self.ties)
        return self._prompt

    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row."""
        pair = self.pair
        first, second = self.shown
        source_id, meta = meta_texts(pair.meta)
        # Positional: keyword arguments take three times as long.
        return Row(
            f"critic/{pair.source}",
            self.prompt,
            tuple(pair.images),
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
            self.wording.name,
            self.label_flipped,
            prompt_tokens,
            known_hashes(pair.images),
            source_id,
            meta,
        )


def swapped_row(row: Row, *, ties: bool) -> Row:
    """The row of the same pair with its responses in the other order; the length of its prompt is not measured again.

    Args:
        ties: whether the prompt offers a tie.
    """
    first, second = row.response_2 or "", row.response_1 or ""
    wording = get_wording(row.wording or "")
    prompt = wording.render(row.question or "", first, second, n_images=len(row.images), ties=ties)
    truth = {"1": "2", "2": "1"}.get(row.ground_truth, row.ground_truth)
    order = 1 - (row.order or 0)
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
