"""Images of the judgements, found by hash in Parquet files and carried in the page as data URIs.

The digits of the demo are a few hundred bytes and go in untouched; photographs share a budget, or 5,000 judgements
would make a file that no browser opens: the more of them, the smaller each becomes. The key is the image's own hash,
not a row number: that is what a judgement names, and it stays right when files are converted again. Only bytes inside a
row are read; a name of a file in a row is not followed.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image

from data_prep.reading.images import BadImage, open_image, read_header
from recipe.critic_r1.judging.pairwise import images_blake3

# Longest side in pixels of an image on the page; where the budget does not reach, the next one.
SIDES = (512, 384, 288, 224, 160)
# Most bytes of an image that goes into the page as it is.
LARGEST_BYTES = 64_000
# Most pixels of an image that is decoded, a memory of 200 MB: phones make them of 50 million.
MOST_PIXELS = 50_000_000
# All images of one page together, as data URIs. Above it a browser gets slow to open the file.
PAGE_BUDGET = 36_000_000
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "BMP": "image/bmp"}


def _uri(raw: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def _shrunk(image: Image.Image, side: int) -> str:
    small = image.copy()
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=80)
    return _uri(out.getvalue(), "image/jpeg")


def data_uri(raw: bytes, allowance: int = LARGEST_BYTES) -> str:
    """One encoded image as a data URI, with the pixels that a model sees (`open_image`).

    It goes in as it is when it is small (the first of SIDES, LARGEST_BYTES, `allowance` in characters of the URI) and
    a browser shows the same pixels; else shrunk to the first of SIDES that fits the allowance, or to the last.

    Raises:
        BadImage: it cannot be decoded, or has too many pixels.
    """
    header, image = read_header(raw), open_image(raw, max_pixels=MOST_PIXELS)
    as_it_is = _uri(raw, _MIME[header.format]) if header.direct and header.format in _MIME else ""
    fits = as_it_is and max(image.size) <= SIDES[0] and len(as_it_is) <= LARGEST_BYTES
    if fits and len(as_it_is) <= allowance:
        return as_it_is
    uri = next((uri for uri in (_shrunk(image, side) for side in SIDES) if len(uri) <= allowance), "")
    uri = uri or _shrunk(image, SIDES[-1])
    # A few pixels only grow when they are encoded again.
    return as_it_is if fits and len(as_it_is) <= len(uri) else uri


def _images_of_rows(path: Path) -> Iterator[list[bytes]]:
    """The encoded images of each row, in order; rows that only name images come out empty.

    Raises:
        ValueError: the file has no images. OSError, ArrowException: it cannot be read.
    """
    with pq.ParquetFile(path) as table:
        if "images" not in table.schema_arrow.names:
            raise ValueError("no column `images`")
        for batch in table.iter_batches(batch_size=64, columns=["images"]):
            for images in batch.column(0).to_pylist():
                listed = images if isinstance(images, list) else []
                found = [i.get("bytes") for i in listed if isinstance(i, dict)]
                yield [raw for raw in found if isinstance(raw, bytes) and raw]


@dataclass
class Album:
    """The images of a page."""

    uris: list[str] = field(default_factory=list)
    """Each distinct image once, as a data URI."""
    of: dict[str, list[int]] = field(default_factory=dict)
    """`image_blake3` of a judgement -> its images' places in `uris`."""
    why_not: dict[str, str] = field(default_factory=dict)
    """`image_blake3` -> why it has none; a wanted hash is either here or in `of`."""
    notes: list[str] = field(default_factory=list)
    """Sentences on files that cannot be used."""


def parquet_files(places: Iterable[Path]) -> list[Path]:
    """Parquet files among files and folders, each once, held-out ones first.

    Judgements are mostly of held-out images: looking there first often spares reading the training shards.
    """
    found = (file for place in places for file in (sorted(place.rglob("*.parquet")) if place.is_dir() else [place]))
    files = {file.resolve(): file for file in found if file.is_file()}
    return sorted(files.values(), key=lambda path: not path.name.startswith("test"))


def find_images(files: list[Path], wanted: Iterable[str]) -> Album:
    """Look up judgements' `image_blake3` in Parquet files, in this order.

    A wanted hash is that of a row's only image, or the one over all hashes of a row with several. A file that cannot be
    used costs itself: it is named in `Album.notes`.
    """
    missing = set(wanted)
    album = Album()
    numbers: dict[str, int] = {}
    left = PAGE_BUDGET
    for path in files if missing else ():
        try:
            for row in _images_of_rows(path):
                hashes = [blake3(raw).hexdigest() for raw in row]
                key = images_blake3(hashes)
                if key in missing:
                    # Small images leave their share of the budget to those that come later.
                    allowance = left // len(missing) // max(1, len(hashes))
                    missing.discard(key)
                    left -= _embed(album, numbers, key, dict(zip(hashes, row, strict=True)), allowance, left)
                    album.of |= {} if key in album.why_not else {key: [numbers[digest] for digest in hashes]}
                if not missing:
                    break
        except (pa.ArrowException, OSError, ValueError) as error:
            album.notes.append(f"{path.name} holds no images that can be read ({str(error)[:200]}).")
    why = f"in none of {len(files)} Parquet files" if files else "no Parquet file to look in; give it with --data"
    album.why_not |= dict.fromkeys(missing, why)
    return album


def _embed(album: Album, numbers: dict[str, int], key: str, images: dict[str, bytes], allowance: int, left: int) -> int:
    """Add the images of one row that the album lacks, or say why not; returns the characters that they take."""
    taken = 0
    for digest, raw in images.items():
        if digest in numbers:
            continue
        try:
            uri = data_uri(raw, allowance)
        except BadImage as error:
            album.why_not[key] = f"cannot be shown ({error.reason})"
            break
        if len(uri) > left - taken:
            album.why_not[key] = "left out because the images of this page have reached their budget"
            break
        taken += len(uri)
        numbers[digest] = len(album.uris)
        album.uris.append(uri)
    return taken
