"""Rows of a training set that are also in a benchmark.

Critic data sets and benchmarks are sampled from the same sources, so training on a benchmark is easily overlooked. A
row overlaps when it has the same image bytes; or nearly the same image (re-encoded or resized); or the same question
and responses, in any order, provided that these are long enough to be specific: "Is there a circle? Yes. No." with
another image is another row.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from data_prep.checks.rows import expand, image_bytes
from data_prep.reading.images import BadImage, open_image
from data_prep.reading.inputs import InputError
from data_prep.reading.parquet_files import bounded_batches, first_line
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import Image, PreferencePair, content_id

NEAR_BITS = 4
"""Most differing bits of the perceptual hashes (64 bits) of images that may be the same."""

PLAIN_BITS = 8
"""A perceptual hash with fewer bits set, or fewer unset, is that of an almost empty image, and matches every other one;
such hashes are not compared."""

SIDE = 16
"""Side of a thumbnail in pixels. Hashes of simple drawings agree by chance, so thumbnails decide."""

PLAIN_SHARE = 0.6
"""Share of one colour above which an image counts as a drawing on a plain background."""

NEAR_MOST, NEAR_MEAN, NEAR_PLAIN = 80, 8.0, 24
"""Largest difference (in levels of 255) between thumbnails of the same image: maximum, mean, and maximum for drawings.

A scene saved at a fifth of its size with JPEG quality 30 is within the first two; of 346 pairs of different drawings
like those of easy-VQA with near hashes, none is within the third."""

LEAST_SPECIFIC = 200
"""Letters and digits of both responses above which equal texts are unlikely to be a coincidence."""

Texts = Literal["long", "any", "never"]
"""Which equal texts count as overlap: long ones, and short ones of rows without images; all; none."""

_BLANK = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Letters and digits in lower case, separated by single spaces."""
    return _BLANK.sub(" ", text.casefold()).strip()


def text_key(question: str, responses: Iterable[str]) -> str:
    """A key of question and responses that ignores case, punctuation and the order of the responses."""
    return content_id(normalised(question), *sorted(map(normalised, responses)))


def is_specific(responses: Iterable[str]) -> bool:
    """Whether two rows with these responses are unlikely to have them by chance."""
    return sum(len(normalised(response)) for response in responses) >= LEAST_SPECIFIC


class Fingerprint(NamedTuple):
    """For deciding whether two images are nearly the same."""

    code: int
    """64-bit perceptual hash."""
    thumbnail: bytes
    """`SIDE` x `SIDE` RGB pixels."""
    plain: bool
    """Whether it is a drawing on a plain background."""

    def is_near(self, other: "Fingerprint") -> bool:
        """Whether the other image is nearly the same."""
        if (self.code ^ other.code).bit_count() > NEAR_BITS:
            return False
        one, two = (np.frombuffer(f.thumbnail, np.uint8).astype(np.int16) for f in (self, other))
        levels = np.abs(one - two)
        if self.plain or other.plain:
            return int(levels.max()) <= NEAR_PLAIN
        return int(levels.max()) <= NEAR_MOST and float(levels.mean()) <= NEAR_MEAN


def fingerprint(data: bytes | memoryview) -> Fingerprint | None:
    """The fingerprint of an image; None for an almost empty or undecodable one."""
    import imagehash
    from PIL.Image import Resampling

    try:
        image = open_image(data)
    except BadImage:
        return None
    bits = imagehash.phash(image).hash.ravel()
    if not PLAIN_BITS <= int(bits.sum()) <= 64 - PLAIN_BITS:
        return None
    # Colours in 16 levels per channel, of few pixels, so that a photograph takes no longer than a drawing.
    small = np.asarray(image.resize((64, 64), Resampling.NEAREST), np.uint16) >> 4
    colours = np.bincount((small @ np.array([256, 16, 1], np.uint16)).ravel())
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Resampling.BOX), np.uint8).tobytes()
    code = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return Fingerprint(code, thumbnail, bool(colours.max() >= PLAIN_SHARE * small.shape[0] * small.shape[1]))


@dataclass(frozen=True)
class _Known:
    """The parts of a row that are compared."""

    name: str
    digests: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]
    text: str
    specific: bool
    """Whether the texts are long enough to be specific to this row."""
    has_images: bool
    unreadable: int
    """Images that cannot be read, and are not compared."""


@dataclass
class Exclusion:
    """An index of rows to exclude from training, built by `Exclusion.from_files`; it can be pickled."""

    digests: dict[str, str] = field(default_factory=dict)
    """BLAKE3 digest of an image -> name of the row."""
    texts: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Key of the texts -> name of the row, and whether it has no images."""
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """Perceptual hashes of all images, in the order of `fingerprints`."""
    fingerprints: list[tuple[Fingerprint, str]] = field(default_factory=list)
    """With the name of the row."""
    perceptual: bool = True
    """Whether to look for nearly equal images, which decodes every image."""
    compared_texts: Texts = "long"
    files: list[dict[str, Any]] = field(default_factory=list)
    """Name with folder, rows, and SHA-256 of the rows' keys of each file, for the manifest."""

    _last: tuple[str, Fingerprint | None] = ("", None)

    @property
    def unreadable(self) -> int:
        """Images that cannot be read, and are not compared."""
        return sum(entry.get("unreadable_images", 0) for entry in self.files)

    @classmethod
    def from_files(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        *,
        perceptual: bool = True,
        texts: Texts = "long",
        image_roots: Sequence[str] = (),
    ) -> "Exclusion":
        """The index of prepared Parquet files or folders of them.

        Raises:
            InputError: a file is missing, or was not written by `critic-r1 prepare`.
        """
        index = cls(perceptual=perceptual, compared_texts=texts)
        for path in paths:
            for file in expand(path):
                keys, rows, unreadable = hashlib.sha256(), 0, 0
                for known in _rows(file, perceptual, image_roots):
                    rows += 1
                    unreadable += known.unreadable
                    index.digests.update(dict.fromkeys(known.digests, known.name))
                    index.texts[known.text] = known.name, not known.has_images
                    index.fingerprints += [(f, known.name) for f in known.fingerprints]
                    keys.update("".join((*known.digests, known.text)).encode())
                name = f"{file.absolute().parent.name}/{file.name}"
                entry = {"file": name, "rows": rows, "keys": keys.hexdigest()}
                index.files.append(entry | ({"unreadable_images": unreadable} if unreadable else {}))
        index.codes = np.array([f.code for f, _ in index.fingerprints], np.uint64)
        return index

    def hit(self, item: Any) -> tuple[str, str] | None:
        """Why an item overlaps with the index, as a short code and in words; None when it does not."""
        for image in item.images:
            if name := self.digests.get(image.blake3):
                return "overlap-image", f"the same image as {name}"
        if (name := self._same_texts(item)) is not None:
            return "overlap-text", f"the same question and responses as {name}"
        if self.perceptual and len(self.codes):
            for image in item.images:
                if (own := self._fingerprint(image)) is not None and (near := self.near(own)) is not None:
                    return "overlap-near-image", f"nearly the same image as {near}"
        return None

    def _fingerprint(self, image: Image) -> Fingerprint | None:
        """The fingerprint of an image; the last one is cached for the other pairs of its record."""
        known, found = self._last  # in one step, for other threads
        if known != image.blake3:
            data = image.data if image.data is not None else Path(image.path or "").read_bytes()
            found = fingerprint(data)
            self._last = image.blake3, found
        return found

    def _same_texts(self, item: Any) -> str | None:
        """The name of a row with the same texts; any two ranked responses may be a benchmark's pair."""
        ranked = item.pairs() if isinstance(item, RankedResponses) else None
        for pair in ranked if ranked is not None else [item] if isinstance(item, PreferencePair) else []:
            key = text_key(pair.question, pair.responses)
            if (name := self.same_text(key, bool(item.images), is_specific(pair.responses))) is not None:
                return name
        return None

    def same_text(self, key: str, has_images: bool, specific: bool) -> str | None:
        """The name of a row with this key of texts, if equal texts count."""
        if self.compared_texts == "never" or key not in self.texts:
            return None
        name, without_images = self.texts[key]
        counts = specific or self.compared_texts == "any" or (without_images and not has_images)
        return name if counts else None

    def near(self, own: Fingerprint) -> str | None:
        """The name of a row whose image is nearly the same."""
        places = np.flatnonzero(np.bitwise_count(self.codes ^ np.uint64(own.code)) <= NEAR_BITS)
        found = (self.fingerprints[place] for place in places)
        return next((name for other, name in found if own.is_near(other)), None)


def _batches(parquet: pq.ParquetFile, file: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from bounded_batches(parquet, file, ["data_source", "images", "extra_info"], 64)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: {first_line(error)}") from error


def _rows(file: Path, perceptual: bool, image_roots: Sequence[str] = ()) -> Iterator[_Known]:
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); prepare the benchmark first") from error
    with parquet:
        if not {"images", "extra_info", "data_source"} <= set(parquet.schema_arrow.names):
            raise InputError(f"{file}: not a file of tasks; turn the benchmark into one with `critic-r1 prepare` first")
        for batch in _batches(parquet, file):
            for row in batch.to_pylist():
                yield _known(row, file, perceptual, image_roots)


def _known(row: dict[str, Any], file: Path, perceptual: bool, image_roots: Sequence[str]) -> _Known:
    info, images, unreadable = row["extra_info"], [], 0
    try:
        responses = [info["response_1"], info["response_2"]] if info["response_1"] else info["responses"] or []
        question, name = info["question"] or "", f"{row['data_source']} {info['source_id'] or info['pair_id']}"
        text, specific = text_key(question, responses), is_specific(responses)
    except (TypeError, KeyError, AttributeError) as error:
        detail = f"a row's `extra_info` is not that of a task ({type(error).__name__}: {error})"
        raise InputError(f"{file}: {detail}; make the file with `critic-r1 prepare`") from error
    for image in row["images"] or []:
        try:
            images.append(image_bytes(image, [file.parent, *image_roots]))
        except BadImage:
            unreadable += 1
    digests = tuple(blake3(data).hexdigest() for data in images)
    found = tuple(f for data in images if (f := fingerprint(data)) is not None) if perceptual else ()
    return _Known(name, digests, found, text, specific, bool(row["images"]), unreadable)


@dataclass
class OverlapReport:
    """How many rows of A are in B."""

    rows: int = 0
    same_image: int = 0
    near_image: int = 0
    same_text: int = 0
    any: int = 0
    unreadable: int = 0
    """Images of A and B that cannot be read, and are not compared."""
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(row of A, how, row of B), the first fifty."""


def compare(
    a: Iterable[str | os.PathLike[str]],
    b: Iterable[str | os.PathLike[str]],
    *,
    perceptual: bool = True,
    texts: Texts = "long",
    image_roots: Sequence[str] = (),
) -> OverlapReport:
    """Compare every row of the prepared files `a` with all rows of `b`.

    Args:
        image_roots: folders of named images, in addition to the folder of the row's file.

    Raises:
        InputError: see `Exclusion.from_files`.
    """
    index = Exclusion.from_files(b, perceptual=perceptual, texts=texts, image_roots=image_roots)
    report = OverlapReport(unreadable=index.unreadable)
    for path in a:
        for file in expand(path):
            for known in _rows(file, perceptual, image_roots):
                report.rows += 1
                report.unreadable += known.unreadable
                same_image = next((index.digests[d] for d in known.digests if d in index.digests), None)
                near = None if same_image else next((n for f in known.fingerprints if (n := index.near(f))), None)
                text = index.same_text(known.text, known.has_images, known.specific or bool(same_image or near))
                report.same_image += same_image is not None
                report.near_image += near is not None
                report.same_text += text is not None
                report.any += bool(same_image or near or text)
                how = "same image" if same_image else "nearly the same image" if near else "same texts"
                if (other := same_image or near or text) and len(report.examples) < 50:
                    report.examples.append((known.name, how, other))
    return report
