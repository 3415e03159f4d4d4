"""Images of the judgements, found by hash in Parquet files and carried in the page as data URIs.

The digits of the demo are a few hundred bytes and go in untouched; photographs share a budget, or 5,000 judgements
would make a file that no browser opens: the more of them, the smaller each becomes. The image's own hash, not a row
number, is the key: that is what a judgement names, and it stays right when files are converted again.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image
from pyarrow.lib import ArrowInvalid

from recipe.critic_r1.judging.pairwise import images_blake3
from recipe.critic_r1.report.records import ReportError

# Longest side in pixels of an image on the page; where the budget does not reach, the next one.
SIDES = (512, 384, 288, 224, 160)
# Most bytes of an image that goes into the page as it is.
LARGEST_BYTES = 64_000
# All images of one page together, as data URIs. Above it a browser gets slow to open the file.
PAGE_BUDGET = 36_000_000
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "BMP": "image/bmp"}


def _uri(raw: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def _shrunk(image: Image.Image, side: int) -> str:
    # JPEG has no transparency: flattening it to black would hide black text on a clear ground.
    mode = "RGBA" if image.has_transparency_data else "RGB"
    small = image.convert(mode)
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, **({"format": "PNG"} if mode == "RGBA" else {"format": "JPEG", "quality": 80}))
    return _uri(out.getvalue(), "image/png" if mode == "RGBA" else "image/jpeg")


def data_uri(raw: bytes, allowance: int = LARGEST_BYTES) -> str | None:
    """One encoded image as a data URI; None when it cannot be decoded.

    It goes in as it is when it is small (the first of SIDES, `allowance` in characters of the URI), else shrunk to the
    first of SIDES that fits the allowance, or to the last.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            as_it_is = _uri(raw, _MIME[image.format]) if image.format in _MIME else ""
            fits = as_it_is and max(image.size) <= SIDES[0] and len(as_it_is) <= LARGEST_BYTES
            # Decodes a large JPEG at half its size or less, which is most of the work.
            image.draft("RGB", (SIDES[0], SIDES[0]))
            image.load()
            if fits and len(as_it_is) <= allowance:
                return as_it_is
            for side in SIDES:
                uri = _shrunk(image, side)
                if len(uri) <= allowance:
                    break
            # A few pixels only grow when they are written again.
            return as_it_is if fits and len(as_it_is) <= len(uri) else uri
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _images_of_rows(path: Path) -> Iterator[list[bytes]]:
    """The encoded images of each row, in order; rows that name images by path only come out empty."""
    try:
        with pq.ParquetFile(path) as table:
            if "images" not in table.schema_arrow.names:
                raise ReportError(f"{path}: no column `images`; run the data stage again or remove the file")
            for batch in table.iter_batches(batch_size=256, columns=["images"]):
                for images in batch.column(0).to_pylist():
                    yield [i["bytes"] for i in images or [] if isinstance(i, dict) and i.get("bytes")]
    except (ArrowInvalid, OSError) as error:
        raise ReportError(
            f"{path}: not a readable Parquet file ({error}); run the data stage again or remove it"
        ) from error


@dataclass
class Album:
    """The images of a page."""

    uris: list[str] = field(default_factory=list)
    """Each distinct image once, as a data URI."""
    of: dict[str, list[int]] = field(default_factory=dict)
    """`image_blake3` of a judgement -> its images' places in `uris`."""
    why_not: dict[str, str] = field(default_factory=dict)
    """`image_blake3` -> why it has none; a wanted hash is either here or in `of`."""


def parquet_files(places: Iterable[Path]) -> list[Path]:
    """Parquet files among files and folders, each once, held-out ones first.

    Judgements are mostly of held-out images: looking there first often spares reading the training shards.
    """
    files = {
        file.resolve(): file
        for place in places
        for file in (sorted(place.rglob("*.parquet")) if place.is_dir() else [place] if place.is_file() else [])
    }
    return sorted(files.values(), key=lambda path: not path.name.startswith("test"))


def find_images(places: Iterable[Path], wanted: Iterable[str]) -> Album:
    """Looks up judgements' `image_blake3` in Parquet files and folders, in this order.

    A wanted hash is that of a row's only image, or the one over all hashes of a row with several.

    Raises ReportError when a Parquet file cannot be read or has no `images` column.
    """
    missing = set(wanted)
    album = Album()
    numbers: dict[str, int] = {}
    left, files = PAGE_BUDGET, parquet_files(places)
    for path in files:
        for row in _images_of_rows(path) if missing else ():
            if not missing:
                break
            hashes = [blake3(raw).hexdigest() for raw in row]
            key = images_blake3(hashes)
            if key not in missing:
                continue
            # Small images leave their share of the budget to those that come later.
            allowance = left // len(missing) // max(1, len(hashes))
            missing.discard(key)
            for digest, raw in zip(hashes, row, strict=True):
                if digest in numbers:
                    continue
                uri = data_uri(raw, allowance)
                if uri is None:
                    album.why_not[key] = f"cannot be decoded ({path.name})"
                    break
                if len(uri) > left:
                    album.why_not[key] = "left out, because this page has its fill of images"
                    break
                left -= len(uri)
                numbers[digest] = len(album.uris)
                album.uris.append(uri)
            else:
                album.of[key] = [numbers[digest] for digest in hashes]
    why = f"in none of {len(files)} Parquet files" if files else "no Parquet file to look in; give it with --data"
    album.why_not |= dict.fromkeys(missing, why)
    return album
