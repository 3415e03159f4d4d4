"""Pictures of the judgements, found by hash in the run's Parquet and carried in the page as data URIs.

The digits of the demo are a few hundred bytes and go in untouched; a photograph is shrunk for the page, or 5,000
judgements would make a file no browser opens. The picture's own hash, not a row number, is the key: that is what a
judgement names, and it stays right when files are converted again.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from pyarrow.lib import ArrowInvalid

from recipe.critic_r1.judging.pairwise import pictures_sha256
from recipe.critic_r1.report.run_files import ReportError

# Longest side in pixels, and most bytes, of a picture that goes into the page as it is.
LONGEST_SIDE = 512
LARGEST_BYTES = 64_000
# All pictures of one page together, in bytes before base64. Above it a browser gets slow to open the file.
PAGE_BUDGET = 48_000_000
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "BMP": "image/bmp"}


def data_uri(raw: bytes) -> str | None:
    """One encoded picture as a data URI, shrunk to LONGEST_SIDE where it is larger; None when it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            small = max(picture.size) <= LONGEST_SIDE and len(raw) <= LARGEST_BYTES
            picture.load()
            if not small or picture.format not in _MIME:
                mode = "RGBA" if picture.has_transparency_data else "RGB"
                shrunk = picture.convert(mode)
                shrunk.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                out = io.BytesIO()
                # JPEG has no transparency: flattening it to black would hide black text on a clear ground.
                shrunk.save(out, **({"format": "PNG"} if mode == "RGBA" else {"format": "JPEG", "quality": 82}))
                raw, mime = out.getvalue(), "image/png" if mode == "RGBA" else "image/jpeg"
            else:
                mime = _MIME[picture.format]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def _pictures_of_rows(path: Path, label: str) -> Iterator[list[bytes]]:
    """The encoded pictures of each row, in order; rows that name pictures by path only come out empty."""
    try:
        with pq.ParquetFile(path) as table:
            if "images" not in table.schema_arrow.names:
                raise ReportError(f"{label}: no column `images`; run the data stage again or remove the file")
            for batch in table.iter_batches(batch_size=256, columns=["images"]):
                for images in batch.column(0).to_pylist():
                    yield [i["bytes"] for i in images or [] if isinstance(i, dict) and i.get("bytes")]
    except (ArrowInvalid, OSError) as error:
        raise ReportError(
            f"{label}: not a readable Parquet file ({error}); run the data stage again or remove it"
        ) from error


@dataclass
class Album:
    """The pictures of a page."""

    uris: list[str] = field(default_factory=list)
    """Each distinct picture once, as a data URI."""
    of: dict[str, list[int]] = field(default_factory=dict)
    """`picture_sha256` of a judgement -> its pictures' places in `uris`."""
    why_not: dict[str, str] = field(default_factory=dict)
    """`picture_sha256` -> why it has none; a wanted hash is either here or in `of`."""


def find_pictures(data_dir: Path, wanted: Iterable[str]) -> Album:
    """Looks up judgements' `picture_sha256` in the Parquet files below `data_dir`.

    A wanted hash is that of a row's only picture, or the one over all hashes of a row with several.

    Raises ReportError when a Parquet file cannot be read or has no `images` column.
    """
    missing = set(wanted)
    album = Album()
    places: dict[str, int] = {}
    left = PAGE_BUDGET
    # Judgements are mostly of held-out pictures: looking there first often spares reading the training shards.
    shards = sorted(Path(data_dir).rglob("*.parquet"), key=lambda path: (not path.name.startswith("test"), path))
    for path in shards:
        label = f"data/{path.relative_to(data_dir).as_posix()}"
        for files in _pictures_of_rows(path, label) if missing else ():
            hashes = [hashlib.sha256(raw).hexdigest() for raw in files]
            key = pictures_sha256(hashes)
            if key not in missing:
                continue
            missing.discard(key)
            for sha, raw in zip(hashes, files, strict=True):
                if sha in places:
                    continue
                uri = data_uri(raw)
                if uri is None:
                    album.why_not[key] = f"cannot be decoded ({label})"
                    break
                if len(uri) > left:
                    album.why_not[key] = "left out, because this page has its fill of pictures"
                    break
                left -= len(uri)
                places[sha] = len(album.uris)
                album.uris.append(uri)
            else:
                album.of[key] = [places[sha] for sha in hashes]
    album.why_not |= dict.fromkeys(missing, "in no Parquet file below data/")
    return album
