"""The Parquet row that verl reads: its schema, its values, and its columns.

The schema is fixed here and written explicitly, never inferred: a column that happens to be all null in the first shard
must not get another type than in the second.

A row is a flat record, `Row`, so that a list of rows becomes columns by a single `zip`. The nested form in which
readers see it exists only in the columns and in `Row.nested`.
"""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from blake3 import blake3

if TYPE_CHECKING:
    import PIL.Image

EMBEDDED_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
"""Images inside the file: the form that verl 0.9.1 opens and that the Hub's viewer shows."""

REFERENCED_IMAGES = pa.list_(pa.string())
"""Images by path. Not a struct with null bytes: verl opens `bytes` whenever the key exists, null or not."""

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
        ("template", pa.string()),
        ("label_flipped", pa.bool_()),
        ("prompt_tokens", pa.int64()),
        ("image_blake3", pa.list_(pa.string())),
        ("source_id", pa.string()),
        ("meta", pa.string()),
        ("response_images", pa.list_(pa.int64())),
    ]
)

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])

TRUTH = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])


def row_schema(*, embedded: bool = True) -> pa.Schema:
    """The Arrow schema of a row.

    Args:
        embedded: images as `{bytes, path}` structs inside the file; otherwise as paths.
    """
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(TURN)),
            ("images", EMBEDDED_IMAGES if embedded else REFERENCED_IMAGES),
            ("ability", pa.string()),
            ("reward_model", TRUTH),
            ("extra_info", EXTRA_INFO),
        ]
    )


SCHEMA = row_schema()


@dataclass
class Image:
    """One image, as bytes exactly as published, or as a path when images are referenced."""

    data: bytes | memoryview | None = field(default=None, repr=False)
    path: str | None = None
    key: str | None = field(default=None, compare=False)
    """The digest once it is known, or `quick_key` when images are not hashed in full."""
    frames: int = 0
    """Of a video, which is not in a row yet: how many frames replace it; 0 for an image."""

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> "Image":
        """The image in a local file, as its bytes are.

        Raises:
            OSError: the file cannot be read.
        """
        return cls(Path(path).read_bytes(), os.path.basename(path))

    @classmethod
    def from_pil(cls, image: "PIL.Image.Image") -> "Image":
        """An image that is already decoded, as PNG; modes that PNG does not have become RGB."""
        stream = io.BytesIO()
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            image = image.convert("RGB")
        image.save(stream, "PNG")
        return cls(stream.getvalue())

    @property
    def blake3(self) -> str:
        """BLAKE3 digest, in hex as `b3sum` prints it, of the bytes or else of the path; `key` when that is given."""
        if self.key is None:
            data = self.data if self.data is not None else (self.path or "").encode("utf-8", "surrogatepass")
            self.key = blake3(data).hexdigest()
        return self.key


def quick_key(data: bytes | memoryview) -> str:
    """A key of an image's length, beginning and end, for runs without full hashes.

    Two different images share it only by intent. It begins with `~`, unlike a full digest.
    """
    ends = b"%d %b %b" % (len(data), bytes(data[:KEY_BYTES]), bytes(data[-KEY_BYTES:]))
    return "~" + blake3(ends).hexdigest(16)


KEY_BYTES = 512
"""Bytes at either end of an image that go into its quick key."""


class Row(NamedTuple):
    """One row. The fields after `ground_truth` are those of `EXTRA_INFO`; what a task does not know is null."""

    data_source: str
    prompt: str
    """The only turn, the user's."""
    images: tuple[Image, ...]
    ability: str
    ground_truth: str
    index: int  # type: ignore[assignment]
    split: str
    pair_id: str
    order: int | None = None
    question: str | None = None
    response_1: str | None = None
    response_2: str | None = None
    responses: list[str] | None = None
    template: str | None = None
    label_flipped: bool | None = None
    prompt_tokens: int | None = None
    image_blake3: list[str] | None = None
    source_id: str | None = None
    meta: str | None = None
    response_images: list[int] | None = None
    """How many of the last images belong to the first and to the second response as shown; null for none."""

    def nested(self) -> dict[str, Any]:
        """The row as a dict that fits `row_schema()`."""
        return {
            "data_source": self.data_source,
            "prompt": [{"role": "user", "content": self.prompt}],
            "images": [{"bytes": i.data, "path": i.path} if i.data is not None else i.path for i in self.images],
            "ability": self.ability,
            "reward_model": {"style": "rule", "ground_truth": self.ground_truth},
            "extra_info": {name: getattr(self, name) for name in INFO_NAMES},
        }

    @classmethod
    def of(cls, nested: Mapping[str, Any]) -> "Row":
        """The row that `nested` gave as a dict."""
        return cls(
            nested["data_source"],
            nested["prompt"][0]["content"],
            tuple(Image(i["bytes"], i["path"]) if isinstance(i, dict) else Image(None, i) for i in nested["images"]),
            nested["ability"],
            nested["reward_model"]["ground_truth"],
            **nested["extra_info"],
        )


INFO_NAMES = tuple(field.name for field in EXTRA_INFO)


class HasRow(ABC):
    """A task: it knows its row."""

    @abstractmethod
    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row.

        Args:
            prompt_tokens: length of the prompt for the model named in the manifest, when it was measured.
        """

    def row(self) -> dict[str, Any]:
        """The row as a dict that fits `row_schema()`."""
        return self.flat().nested()


def row_bytes(row: Row) -> int:
    """About how many bytes a row takes in memory: images, texts, and a constant for the rest."""
    size = 512 + 2 * len(row.prompt)
    for image in row.images:
        size += len(image.path or "" if image.data is None else image.data)
    return size


def rows_batch(rows: Sequence[Row], *, embedded: bool = True) -> pa.RecordBatch:
    """Rows as Arrow columns, in the order and types of `row_schema`.

    Args:
        rows: at least one.

    Raises:
        ValueError: images are to be embedded, and one has no bytes.
    """
    # `zip` gives the columns in the order of the fields, so they can be named like them.
    columns: Any = Row(*zip(*rows, strict=True))  # type: ignore[arg-type]
    texts = _texts(columns)
    info = [texts[f.name] if f.name in texts else pa.array(getattr(columns, f.name), f.type) for f in EXTRA_INFO]
    each = np.arange(len(rows) + 1, dtype=np.int32)
    user, rule = (pa.repeat(text, len(rows)) for text in ("user", "rule"))
    turns = pa.StructArray.from_arrays([user, texts["prompt"]], fields=list(TURN))
    return pa.RecordBatch.from_arrays(
        [
            texts["data_source"],
            pa.ListArray.from_arrays(each, turns),
            _images(columns.images, embedded),
            texts["ability"],
            pa.StructArray.from_arrays([rule, texts["ground_truth"]], fields=list(TRUTH)),
            pa.StructArray.from_arrays(info, fields=list(EXTRA_INFO)),
        ],
        schema=SCHEMA if embedded else row_schema(embedded=False),
    )


TEXTS = ("data_source", "prompt", "ability", "ground_truth", *(f.name for f in EXTRA_INFO if f.type == pa.string()))
"""Fields of a row that are texts."""


def _texts(columns: Row) -> dict[str, pa.Array]:
    """The columns of texts, converted together: every conversion releases the GIL, which other threads wait for."""
    n = len(columns.prompt)
    joined = pa.array(list(chain.from_iterable(getattr(columns, name) for name in TEXTS)), pa.string())
    return {name: joined.slice(place * n, n) for place, name in enumerate(TEXTS)}


def _images(images: Sequence[tuple[Image, ...]], embedded: bool) -> pa.Array:
    offsets = np.cumsum([0, *map(len, images)], dtype=np.int32)
    flat = [image for row in images for image in row]
    inner = pa.array([p.path for p in flat], pa.string())
    if embedded:
        data = [p.data for p in flat]
        if any(d is None for d in data):
            raise ValueError("an image has a path and no bytes: load it, or write the rows with referenced images")
        fields = list(EMBEDDED_IMAGES.value_type)
        inner = pa.StructArray.from_arrays([pa.array(data, pa.binary()), inner], fields=fields)
    return pa.ListArray.from_arrays(offsets, inner, type=EMBEDDED_IMAGES if embedded else REFERENCED_IMAGES)
