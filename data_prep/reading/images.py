"""The one way to open an image, and what is known of it without decoding.

`open_image` makes the pixels that a model sees. Training, rollouts, serving, evaluation and the report all use it, so
that a model is evaluated on the images that it was trained on: a closed list of formats, with limits that are checked
before decoding, turned upright, transparency on white, 16 bits scaled.

Conversion decodes nothing: the header gives the upright size, the end of the file shows whether it is truncated, and
only an unusual file is decoded to be sure.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from data_prep.reading.image_files import LARGEST_FILE, BadImage, read_file, too_many_bytes

__all__ = ["BadImage", "Header", "check_whole", "normalised", "open_image", "read_header", "upright_size"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
"""A closed list, since some of Pillow's other formats run an external interpreter (EPS runs Ghostscript). MPO is a JPEG
with further images after the first."""

MAX_PIXELS = 89_478_485
"""Pixels above which an image is refused, as Pillow warns of a decompression bomb."""

MAX_SCANNED = 12 * MAX_PIXELS
"""Pixels of a JPEG times its scans, each a pass over the image. A progressive JPEG usually has ten."""

MAX_PARTS = 65_536
"""Segments of a JPEG before its pixels, or chunks of a PNG; more take minutes to read."""

MAX_ASPECT = 200
"""Longest side over shortest above which the Qwen2-VL processors refuse an image."""

TAIL = 1024
"""Bytes at the end of a JPEG that must contain its end marker; cameras append a few bytes."""

# Pillow warns of odd metadata, which third-party images are full of; only the pixels count. A permanent filter, since
# `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Header(NamedTuple):
    """What is known of an image without decoding it."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    format: str
    """Pillow's name of the format."""
    plain: bool
    """Whether the file has the usual structure; others are decoded before they are trusted."""
    direct: bool
    """Whether `PIL.Image.open(...).convert("RGB")` certainly gives the same pixels as `open_image`."""


def open_image(
    source: bytes | memoryview | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = LARGEST_FILE
) -> Image.Image:
    """The image as a model sees it: RGB, upright, transparency on white, 16 bits scaled; the first of an animation.

    Args:
        source: the bytes of an image file, or a path that the caller has checked (see `allowed_path`).
        max_pixels: limit for the header's size, before anything is decoded; at most `MAX_PIXELS`.
        max_bytes: limit for the file.

    Returns:
        An image of mode RGB without metadata, so that it is not rotated again.

    Raises:
        BadImage: `image-missing`, `image-unreadable`, `image-empty`, `image-too-large`, or `image-truncated` when the
            pixels cannot be decoded.
    """
    data = read_file(source) if isinstance(source, Path) else source
    if len(data) > max_bytes:
        raise too_many_bytes("the image")
    _header(data, max_pixels)
    try:
        with _opened(data) as image:
            return _as_rgb(image)[0]
    except Exception as error:  # Pillow's plug-ins raise anything on malformed bytes
        raise _undecodable(error) from error


def upright_size(source: bytes | memoryview | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of `open_image`'s result, from the header.

    Raises:
        BadImage: as `open_image`, except for errors that only decoding finds.
    """
    return _header(read_file(source) if isinstance(source, Path) else source, max_pixels)[:2]


def read_header(data: bytes | memoryview) -> Header:
    """Upright size and format of an image that a model's processor accepts, without decoding.

    Raises:
        BadImage: `image-empty`, `image-unreadable`, `image-too-large` or `image-shape`.
    """
    header = _header(data, MAX_PIXELS)
    width, height = header[:2]
    if not (0 < width <= MAX_ASPECT * height and height <= MAX_ASPECT * width):
        detail = f"{width}x{height} is more than {MAX_ASPECT} times as long as wide; processors refuse it"
        raise BadImage("image-shape", detail)
    return header


def check_whole(data: bytes | memoryview, header: Header) -> None:
    """Check that the image is not truncated; decodes it only when the file, or its end, looks unusual.

    Raises:
        BadImage: `image-truncated`.
    """
    ends = _ENDS.get(header.format)
    if not header.plain or ends is None or not ends(data):
        open_image(data)


def _opened(data: bytes | memoryview) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=FORMATS)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright. From 5 on, width and height are swapped."""


def _orientation(image: Image.Image) -> int:
    """The orientation, 1 to 8, from EXIF or XMP. Always 1 for TIFF, which Pillow turns itself."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an image with broken metadata is still usable
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _as_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The image as a model sees it, and why `image.convert("RGB")` would differ, or None."""
    image.load()
    differs = None
    if (orientation := _orientation(image)) != 1:
        image, differs = image.transpose(_TURNS[orientation]), "orientation"
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgb, differs = _eight_bits(image).convert("RGB"), "depth"
    elif image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = rgba.getchannel("A")
        if alpha.getextrema()[0] != 255:
            differs = differs or ("alpha" if image.mode == "RGBA" else "transparency")
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=alpha)
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb, differs


class Normalised(NamedTuple):
    """An image's bytes as they are stored."""

    data: bytes | memoryview
    """Unchanged, or a PNG of `open_image`'s result."""
    reason: str | None
    """Why they were changed: `orientation`, `depth` (more than 8 bits), `alpha` (RGBA, which verl also puts on white,
    unlike other readers), `transparency` (of any other kind). None for unchanged bytes."""


def normalised(data: bytes | memoryview, header: Header) -> Normalised:
    """Bytes that every reader decodes as `open_image` does.

    Stock verl and third-party servers open images in their own ways. An image that they would decode differently is
    replaced by a PNG of `open_image`'s result; all others stay unchanged.

    Args:
        header: of `read_header`.

    Raises:
        BadImage: `image-truncated`.
    """
    if header.direct:
        return Normalised(data, None)
    try:
        with _opened(data) as image:
            rgb, differs = _as_rgb(image)
    except Exception as error:  # as in `open_image`
        raise _undecodable(error) from error
    if differs is None:
        return Normalised(data, None)
    stream = io.BytesIO()
    rgb.save(stream, "PNG")
    return Normalised(stream.getvalue(), differs)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A greyscale image of more than 8 bits, scaled; Pillow would clip values above 255 to white.

    16-bit values have a known range. For 32-bit integers and floats it is the smallest of 0 to 1 (floats), 0 to 255, 0
    to 65,535, or 0 to the largest value, that contains all values.
    """
    if image.mode.startswith("I;16"):
        image, full = image.convert("I"), 65_535.0
    else:
        extrema = image.getextrema()
        assert isinstance(extrema[1], int | float)
        usual = (255.0, 65_535.0) if image.mode == "I" else (1.0, 255.0, 65_535.0)
        full = next((most for most in usual if extrema[1] <= most), float(extrema[1]))
    scale = 255 / full
    return image.point(lambda sample: sample * scale + 0.5).convert("L")


def _header(data: bytes | memoryview, max_pixels: int) -> Header:
    if not data:
        raise BadImage("image-empty", "the image has no bytes: fetch the set again or drop the row")
    header = _quick_header(data) or _pillow_header(data)
    if header.width * header.height > max_pixels:
        raise _too_many_pixels(max_pixels)
    if header.width == 0 or header.height == 0:
        raise BadImage("image-unreadable", "the image has no pixels: fetch the file again")
    return header


def _quick_header(data: bytes | memoryview) -> Header | None:
    """The header of an ordinary JPEG or PNG, ten times as fast as Pillow; None for all others."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_header(data)
    return None


_SEGMENT, _SIDES = struct.Struct(">BBH"), struct.Struct(">HH")


def _jpeg_header(data: bytes | memoryview) -> Header | None:
    at, end, width, height, components, odd, several = 2, len(data) - 9, 0, 0, 0, False, False
    for _ in range(MAX_PARTS):
        if at >= end:
            return None
        lead, marker, length = _SEGMENT.unpack_from(data, at)
        if lead != 0xFF or marker < 0xC0 or marker == 0xD9:
            return None
        if marker == 0xFF:  # a fill byte
            at, odd = at + 1, True
            continue
        if marker == 0xDA:  # the scan, without which there is no image
            break
        # The frame markers; C4, C8 and CC among them are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = _SIDES.unpack_from(data, at + 5)
            components, several = data[at + 9], marker & 3 == 2  # progressive
        odd |= marker == 0xE1  # EXIF or XMP, which Pillow reads
        at += 2 + length
    else:
        raise BadImage("image-unreadable", f"more than {MAX_PARTS:,} segments: save the image again or drop the row")
    if not width or not height:
        return None
    if several or data[at + 4] < components:
        _check_scans(data, width * height)
    return _pillow_header(data)._replace(plain=True) if odd else Header(width, height, "JPEG", True, True)


def _check_scans(data: bytes | memoryview, pixels: int) -> None:
    scans = sum(1 for _ in re.finditer(b"\xff\xda", data))
    if scans * pixels > MAX_SCANNED:
        detail = f"{scans:,} scans of {pixels:,} pixels: save the image again or drop the row"
        raise BadImage("image-too-large", detail)


_IHDR = struct.Struct(">IIBB")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type -> allowed bits per channel."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Keywords of PNG texts that may contain an orientation."""


def _png_header(data: bytes | memoryview) -> Header | None:
    if len(data) <= 32 or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = _IHDR.unpack_from(data, 16)
    if depth not in _PNG_DEPTHS.get(colour, ()):
        return None
    direct = colour in (0, 2, 3) and (colour, depth) != (0, 16)
    for kind, start, _ in _png_chunks(data):
        if kind == b"tRNS":
            direct = False
        elif kind == b"eXIf" or (kind in _TEXTS and bytes(data[start : start + 24]).startswith(_ORIENTED)):
            return None
    return Header(width, height, "PNG", True, direct)


def _png_chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, stop) of the body of every chunk that is present with its checksum."""
    at = 8
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            return
        (length,) = struct.unpack_from(">I", data, at)
        start, stop = at + 8, at + 8 + length
        if stop + 4 > len(data):
            return
        yield bytes(data[at + 4 : start]), start, stop
        at = stop + 4
    raise BadImage("image-unreadable", f"more than {MAX_PARTS:,} chunks: save the image again or drop the row")


def _pillow_header(data: bytes | memoryview) -> Header:
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_many_pixels(MAX_PIXELS)
            if image.format in ("JPEG", "MPO"):
                _check_scans(data, width * height)
            if image.format == "PNG":
                image.load()  # the orientation may follow the pixels
            orientation = _orientation(image)
            if orientation > 4:
                width, height = height, width
            eight_bits = image.mode not in ("I", "F") and not image.mode.startswith("I;16")
            direct = orientation == 1 and eight_bits and not image.has_transparency_data
            return Header(width, height, image.format or "", plain=image.format not in ("JPEG", "PNG"), direct=direct)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(MAX_PIXELS) from error
    except Exception as error:  # as in `open_image`
        kind = type(error).__name__
        detail = f"the bytes are not a JPEG, PNG, WEBP, GIF, BMP or TIFF ({kind}): convert the image, or fetch it again"
        raise BadImage("image-unreadable", detail) from error


def _undecodable(error: Exception) -> BadImage:
    detail = f"the image cannot be decoded ({type(error).__name__}: {error}): fetch the file again or drop the row"
    return BadImage("image-truncated", detail)


def _too_many_pixels(most: int) -> BadImage:
    return BadImage("image-too-large", f"more than {most:,} pixels: shrink the image or drop the row")


def _jpeg_ends(data: bytes | memoryview) -> bool:
    return b"\xff\xd9" in bytes(data[-TAIL:])


def _gif_ends(data: bytes | memoryview) -> bool:
    return data[-2:] == b"\x00\x3b"


def _webp_ends(data: bytes | memoryview) -> bool:
    size: int = struct.unpack_from("<I", data, 4)[0]
    return len(data) >= size + 8


def _png_ends(data: bytes | memoryview) -> bool:
    """Whether all chunks up to the end chunk have correct checksums and nothing is unusual.

    Unusual are pixels that do not begin like compressed data, and compressed texts, which may expand to gigabytes.
    """
    pixels = False
    for kind, start, stop in _png_chunks(data):
        if zlib.crc32(memoryview(data)[start - 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            return False
        if kind == b"IEND":
            return pixels
        if kind == b"IDAT" and not pixels:
            first = bytes(data[start : start + 2])
            pixels = stop - start > 1 and first[0] & 15 == 8 and int.from_bytes(first, "big") % 31 == 0
            if not pixels:
                return False
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            return False
    return False


_ENDS = {"JPEG": _jpeg_ends, "PNG": _png_ends, "WEBP": _webp_ends, "GIF": _gif_ends}
