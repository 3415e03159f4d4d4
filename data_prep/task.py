"""The one definition of a preference pair, of a task made from it, and of the Parquet row that verl reads.

Every step of data preparation speaks these records: a source yields `PreferencePair`s, an order turns a pair into a
`PreferenceTask`, a task knows its row. The schema is fixed here and written explicitly, never inferred: a column that
happens to be all null in the first shard must not get another type than in the second.

Pictures are carried as the bytes that the source shipped. They are hashed and measured but never decoded and encoded
again, so a row's picture is the very picture the annotators saw. They may be views of a buffer (see `views.py`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from data_prep.prompts import MARKER, Wording, get_wording, neutralise, valid_text

Preferred = Literal[0, 1, "tie"]
"""Index of the better response, or a tie."""

Split = str
"""`train`, `val` or `test`: the first part of the shard's file name."""

LABELS = ("1", "2", "tie")
"""What `reward_model.ground_truth` may hold in a critic row."""

EMBEDDED_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
"""Pictures inside the file: the form that verl 0.9.1 opens and that the Hub's viewer shows."""

REFERENCED_IMAGES = pa.list_(pa.string())
"""Pictures by path. Not a struct with null bytes: verl opens `bytes` whenever the key exists, null or not."""

EXTRA_INFO = pa.struct(
    [
        ("index", pa.int64()),
        ("split", pa.string()),
        ("pair_id", pa.string()),
        ("order", pa.int64()),
        ("question", pa.string()),
        ("response_1", pa.string()),
        ("response_2", pa.string()),
        ("responses", pa.list_(pa.string())),
        ("wording", pa.string()),
        ("label_flipped", pa.bool_()),
        ("prompt_tokens", pa.int64()),
        ("picture_sha256", pa.list_(pa.string())),
        ("source_id", pa.string()),
        ("meta", pa.string()),
    ]
)


def row_schema(*, embedded: bool = True) -> pa.Schema:
    """The Arrow schema of a row.

    Args:
        embedded: pictures as `{bytes, path}` structs inside the file; otherwise as paths.
    """
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("images", EMBEDDED_IMAGES if embedded else REFERENCED_IMAGES),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", EXTRA_INFO),
        ]
    )


SCHEMA = row_schema()


@dataclass
class Picture:
    """One picture, as bytes exactly as published, or as a path when pictures are referenced."""

    data: bytes | memoryview | None = field(default=None, repr=False)
    path: str | None = None
    key: str | None = field(default=None, compare=False)
    """The digest once it is known, or what stands for it when pictures are not hashed in full; see `quick_key`."""

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes; of the path when there are no bytes; `key` when that is given."""
        if self.key is None:
            data = self.data if self.data is not None else (self.path or "").encode("utf-8", "surrogatepass")
            self.key = hashlib.sha256(data).hexdigest()
        return self.key


def quick_key(data: bytes | memoryview) -> str:
    """A key of a picture's length, beginning and end: for runs that do without full hashes.

    Two different pictures share it only if someone builds them so; it begins with `~` so that nobody takes it for a
    SHA-256.
    """
    ends = b"%d %b %b" % (len(data), bytes(data[:KEY_BYTES]), bytes(data[-KEY_BYTES:]))
    return "~" + hashlib.sha256(ends).hexdigest()[:32]


KEY_BYTES = 512
"""Bytes at either end of a picture that go into its quick key."""


@dataclass(frozen=True)
class PreferencePair:
    """One question about pictures, two responses, and which of them is better."""

    source: str
    """Short name of the data set, for example `rlhf_v`."""
    images: tuple[Picture, ...]
    """The pictures in the order in which the prompt shows them; may be empty."""
    question: str
    """The question without picture markers."""
    responses: tuple[str, str]
    """The two responses in the order of the source."""
    preferred: Preferred
    """Which response is better."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else the source says (id, annotator, gap of the scores, ...); JSON-serialisable."""

    @cached_property
    def pair_id(self) -> str:
        """32 hex digits over source, pictures, question, responses and label: equal content, equal id."""
        pictures = [image.sha256 for image in self.images]
        return content_id(self.source, *pictures, self.question, *self.responses, str(self.preferred))

    def ground_truth(self, order: int) -> str:
        """`"1"`, `"2"` or `"tie"` when the responses are shown in `order` (0 as listed, 1 swapped)."""
        if self.preferred == "tie":
            return "tie"
        return "1" if self.preferred == order else "2"


def content_id(*parts: str) -> str:
    """32 hex digits of a hash over `parts`; each part's length is hashed too, so parts cannot run together."""
    text = f"{[len(part) for part in parts]}{''.join(parts)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class PreferenceTask:
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
    """Whether the label was turned over on purpose (control experiments only)."""
    prompt_tokens: int | None = None
    """Prompt length in tokens for the model named in the manifest; None when it was not measured."""

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

    @cached_property
    def prompt(self) -> str:
        """The user turn, with one `<image>` marker for each picture and all free text neutralised."""
        return self.wording.render(self.pair.question, *self.shown, n_images=len(self.pair.images), ties=self.ties)

    def row(self) -> dict[str, Any]:
        """The row as a dict that fits `row_schema()`."""
        pair = self.pair
        first, second = self.shown
        return make_row(
            data_source=f"critic/{pair.source}",
            prompt=self.prompt,
            images=pair.images,
            ability="critic",
            ground_truth=self.ground_truth,
            extra={
                "index": self.index,
                "split": self.split,
                "pair_id": pair.pair_id,
                "order": self.order,
                "question": valid_text(pair.question),
                "response_1": valid_text(first),
                "response_2": valid_text(second),
                "wording": self.wording.name,
                "label_flipped": self.label_flipped,
                "prompt_tokens": self.prompt_tokens,
            },
            meta=pair.meta,
        )


@dataclass(frozen=True)
class PolicyTask:
    """A plain question about pictures with a known answer: what the policy, not the judge, is asked."""

    source: str
    images: tuple[Picture, ...]
    question: str
    answer: str
    split: Split = "train"
    index: int = 0

    @property
    def prompt(self) -> str:
        """The question behind its picture markers, without any instruction about the form of the answer."""
        return MARKER * len(self.images) + neutralise(self.question)

    def row(self) -> dict[str, Any]:
        """The row as a dict that fits `row_schema()`."""
        return make_row(
            data_source=f"policy/{self.source}",
            prompt=self.prompt,
            images=self.images,
            ability="vqa",
            ground_truth=self.answer,
            extra={
                "index": self.index,
                "split": self.split,
                "pair_id": content_id(self.source, *(i.sha256 for i in self.images), self.question, self.answer),
                "question": valid_text(self.question),
            },
        )


def make_row(
    *,
    data_source: str,
    prompt: str,
    images: tuple[Picture, ...],
    ability: str,
    ground_truth: str,
    extra: dict[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One row as a dict that fits `row_schema()`; keys that `extra` lacks are null."""
    info: dict[str, Any] = {**_NO_INFO, **extra}
    info["picture_sha256"] = [digest for i in images if (digest := i.sha256)[0] != "~"]
    if meta:
        info["source_id"] = valid_text(str(meta["id"])) if "id" in meta else None
        info["meta"] = _META.encode(meta)
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": prompt}],
        "images": [{"bytes": i.data, "path": i.path} if i.data is not None else i.path for i in images],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": info,
    }


_NO_INFO: dict[str, Any] = {field.name: None for field in EXTRA_INFO}

_META = json.JSONEncoder(ensure_ascii=True, sort_keys=True, default=str)
"""Made once: `json.dumps` makes a new one at every call that has options."""
