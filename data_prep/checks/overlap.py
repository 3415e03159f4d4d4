"""Rows of a training set that also stand in a benchmark.

The critic sets and the critic benchmarks were drawn from the same sources, so a benchmark can be trained on without
anyone noticing. Three things are compared: the image's bytes, its perceptual hash (the same image saved again or
resized), and the normalised texts of question and both responses in any order. One match is enough.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from blake3 import blake3

from data_prep.checks.rows import expand, image_bytes
from data_prep.reading.images import BadImage, open_image
from data_prep.reading.inputs import InputError
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import Image, PreferencePair, content_id

NEAR_BITS = 4
"""Perceptual hashes (64 bits) that differ in at most this many bits count as the same image."""

PLAIN_BITS = 8
"""A perceptual hash with fewer bits set, or fewer unset, is that of an almost empty image, which matches every
other almost empty image; such hashes are not compared."""

_BLANK = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Letters and digits in lower case with single blanks between."""
    return _BLANK.sub(" ", text.casefold()).strip()


def text_key(question: str, responses: Iterable[str]) -> str:
    """A key of question and responses that ignores case, punctuation and the order of the responses."""
    return content_id(normalised(question), *sorted(map(normalised, responses)))


def perceptual_hash(data: bytes | memoryview) -> int | None:
    """The 64-bit DCT hash of an image (library ImageHash); None for an almost empty or undecodable image."""
    import imagehash

    try:
        bits = imagehash.phash(open_image(data)).hash.ravel()
    except BadImage:
        return None
    if not PLAIN_BITS <= int(bits.sum()) <= 64 - PLAIN_BITS:
        return None
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True)
class _Known:
    """What of one row is compared."""

    name: str
    digests: tuple[str, ...]
    hashes: tuple[int, ...]
    text: str


@dataclass
class Exclusion:
    """An index of the rows that must not be trained on.

    Build it with `Exclusion.from_files`; it can be pickled and sent to workers.
    """

    digests: dict[str, str] = field(default_factory=dict)
    """BLAKE3 digest of an image -> name of the row."""
    texts: dict[str, str] = field(default_factory=dict)
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    hash_names: list[str] = field(default_factory=list)
    perceptual: bool = True
    """Whether perceptual hashes are compared; they cost a decoding of every image."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """Folder and name, rows, and SHA-256 of the rows' keys of each file, for the manifest."""

    _last: tuple[str, int | None] = ("", None)

    @classmethod
    def from_files(cls, paths: Iterable[str | os.PathLike[str]], *, perceptual: bool = True) -> "Exclusion":
        """The index of prepared Parquet files or folders of them.

        Raises:
            InputError: a file is missing, or is not one that `critic-r1 prepare` wrote.
        """
        index = cls(perceptual=perceptual)
        hashes: list[int] = []
        for path in paths:
            for file in expand(path):
                keys, rows = hashlib.sha256(), 0
                for known in _rows(file, perceptual):
                    rows += 1
                    index.digests.update(dict.fromkeys(known.digests, known.name))
                    index.texts[known.text] = known.name
                    hashes += known.hashes
                    index.hash_names += [known.name] * len(known.hashes)
                    keys.update("".join((*known.digests, known.text)).encode())
                name = f"{file.absolute().parent.name}/{file.name}"
                index.files.append({"file": name, "rows": rows, "keys": keys.hexdigest()})
        index.hashes = np.array(hashes, np.uint64)
        return index

    def hit(self, item: Any) -> tuple[str, str] | None:
        """What of a pair (or other item) stands in the index, as a short code and in words; None when nothing does."""
        for image in item.images:
            if name := self.digests.get(image.blake3):
                return "overlap-image", f"the same image as {name}"
        if (name := self._same_texts(item)) is not None:
            return "overlap-text", f"the same question and responses as {name}"
        if self.perceptual and len(self.hashes):
            for image in item.images:
                if (code := self._code(image)) is not None and (near := self.near(code)) is not None:
                    return "overlap-near-image", f"almost the same image as {near}"
        return None

    def _code(self, image: Image) -> int | None:
        """The perceptual hash of an image; the last one is kept, since all pairs of a record ask for the same."""
        known, code = self._last  # at once: several threads may ask
        if known != image.blake3:
            data = image.data if image.data is not None else Path(image.path or "").read_bytes()
            code = perceptual_hash(data)
            self._last = image.blake3, code
        return code

    def _same_texts(self, item: Any) -> str | None:
        """The name of a row with the same texts; of ranked responses, any two may stand in a benchmark's pair."""
        pairs = (
            item.pairs() if isinstance(item, RankedResponses) else [item] if isinstance(item, PreferencePair) else []
        )
        keys = (text_key(pair.question, pair.responses) for pair in pairs)
        return next((name for key in keys if (name := self.texts.get(key))), None)

    def near(self, code: int) -> str | None:
        """The name of a row whose image has almost this perceptual hash."""
        distances = np.bitwise_count(self.hashes ^ np.uint64(code))
        best = int(distances.argmin()) if len(distances) else -1
        return self.hash_names[best] if best >= 0 and distances[best] <= NEAR_BITS else None


def _rows(file: Path, perceptual: bool) -> Iterator[_Known]:
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); prepare the benchmark first") from error
    with parquet:
        if not {"images", "extra_info", "data_source"} <= set(parquet.schema_arrow.names):
            raise InputError(f"{file}: not a file of tasks; turn the benchmark into one with `critic-r1 prepare` first")
        for batch in parquet.iter_batches(64, columns=["data_source", "images", "extra_info"]):
            for row in batch.to_pylist():
                info = row["extra_info"]
                images = []
                for image in row["images"] or []:
                    try:
                        images.append(image_bytes(image, file.parent))
                    except BadImage:
                        continue
                codes = [c for p in images if (c := perceptual_hash(p)) is not None] if perceptual else []
                responses = [info["response_1"], info["response_2"]] if info["response_1"] else info["responses"] or []
                yield _Known(
                    f"{row['data_source']} {info['source_id'] or info['pair_id']}",
                    tuple(blake3(p).hexdigest() for p in images),
                    tuple(codes),
                    text_key(info["question"] or "", responses),
                )


@dataclass
class OverlapReport:
    """How many rows of A stand in B."""

    rows: int = 0
    same_image: int = 0
    near_image: int = 0
    same_text: int = 0
    any: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(row of A, how, row of B), the first fifty."""


def compare(
    a: Iterable[str | os.PathLike[str]], b: Iterable[str | os.PathLike[str]], *, perceptual: bool = True
) -> OverlapReport:
    """Compare every row of the prepared files `a` with all rows of `b`.

    Raises:
        InputError: as `Exclusion.from_files`.
    """
    index = Exclusion.from_files(b, perceptual=perceptual)
    report = OverlapReport()
    for path in a:
        for file in expand(path):
            for known in _rows(file, perceptual):
                report.rows += 1
                same_image = next((index.digests[d] for d in known.digests if d in index.digests), None)
                near = None if same_image else next((n for c in known.hashes if (n := index.near(c))), None)
                text = index.texts.get(known.text)
                report.same_image += same_image is not None
                report.near_image += near is not None
                report.same_text += text is not None
                report.any += bool(same_image or near or text)
                how = "same image" if same_image else "almost the same image" if near else "same texts"
                if (other := same_image or near or text) and len(report.examples) < 50:
                    report.examples.append((known.name, how, other))
    return report
