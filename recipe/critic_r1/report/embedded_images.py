"""Images of the judgements, found by hash in Parquet files and embedded in the page as data URIs.

Small images, like the demo's digits, are embedded unchanged. Photographs share a budget and are shrunk to fit it, since
no browser opens a page with 5,000 of them. Judgements name images by hash, which stays valid when the data is converted
again. Only bytes in a row are read; file names in a row are not followed.
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

# Longest side in pixels of an image on the page; the next one if the budget is too small.
SIDES = (512, 384, 288, 224, 160)
# Most bytes of an image that is embedded unchanged.
LARGEST_BYTES = 64_000
# Most pixels of an image that is decoded, in 200 MB; phone cameras have 50 million.
MOST_PIXELS = 50_000_000
# Characters of all images of a page as data URIs; with more, browsers open the file slowly.
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
    """An encoded image as a data URI, with the pixels that a model sees (`open_image`).

    It is embedded unchanged when it is small (the first of SIDES, LARGEST_BYTES, `allowance` in characters of the URI)
    and a browser shows the same pixels; otherwise shrunk to the first of SIDES that fits the allowance, or the last.

    Raises:
        BadImage: it cannot be decoded, or has too many pixels.
    """
    header, image = read_header(raw), open_image(raw, max_pixels=MOST_PIXELS)
    unchanged = _uri(raw, _MIME[header.format]) if header.direct and header.format in _MIME else ""
    fits = unchanged and max(image.size) <= SIDES[0] and len(unchanged) <= LARGEST_BYTES
    if fits and len(unchanged) <= allowance:
        return unchanged
    uri = next((uri for uri in (_shrunk(image, side) for side in SIDES) if len(uri) <= allowance), "")
    uri = uri or _shrunk(image, SIDES[-1])
    # Encoding a tiny image again makes it larger.
    return unchanged if fits and len(unchanged) <= len(uri) else uri


def _images_of_rows(path: Path) -> Iterator[list[bytes]]:
    """The encoded images of each row, in order; empty for rows that only name images.

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
    """`image_blake3` of a judgement -> indices of its images in `uris`."""
    why_not: dict[str, str] = field(default_factory=dict)
    """`image_blake3` -> why it has none; every wanted hash is here or in `of`."""
    notes: list[str] = field(default_factory=list)
    """Sentences on files that cannot be used."""


def parquet_files(places: Iterable[Path]) -> list[Path]:
    """Parquet files among files and folders, each once; held-out ones first, since most judgements are of those."""
    found = (file for place in places for file in (sorted(place.rglob("*.parquet")) if place.is_dir() else [place]))
    files = {file.resolve(): file for file in found if file.is_file()}
    return sorted(files.values(), key=lambda path: not path.name.startswith("test"))


def find_images(files: list[Path], wanted: Iterable[str]) -> Album:
    """Look up judgements' `image_blake3` in Parquet files, in this order.

    A file that cannot be used is skipped, and named in `Album.notes`.
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
                    # Budget that small images do not use is left for later ones.
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
    """Add a row's images that the album lacks, or say why not; returns the number of characters added."""
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
