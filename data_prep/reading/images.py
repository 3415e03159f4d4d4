"""The one way to open an image, and what can be known of it without decoding it.

`open_image` makes the pixels that a model sees. Training, rollouts, serving, evaluation and the report all use it, so
that a model is judged on the images that it was trained on: only formats that we name, bounded before memory is taken,
turned upright, transparency on white, 16 bits scaled.

Conversion decodes nothing: the header gives the upright size, the end of the file shows whether it was cut, and only a
file whose end looks odd is decoded to be sure.
"""

import io
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
"""Formats that are opened. A closed list: some of Pillow's others run an external interpreter (EPS runs Ghostscript).
MPO is a JPEG with further images after the first."""

MAX_PIXELS = 89_478_485
"""Pixels above which an image is refused: where Pillow begins to warn of a decompression bomb."""

MAX_ASPECT = 200
"""Longest side over shortest above which the Qwen2-VL processors refuse an image."""

TAIL = 1024
"""Bytes at the end of a JPEG in which its end marker is looked for; cameras append a few."""

# Whatever Pillow has to say of odd metadata, once a line of code: the images are strangers' and the pixels are what
# counts. A filter for good, since `catch_warnings` is not safe when several threads open images.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Header(NamedTuple):
    """What an image's file says without its pixels."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    format: str
    """Pillow's name of the format."""
    plain: bool
    """Whether the file is built as such files usually are; an odd one is decoded before it is trusted."""
    direct: bool
    """Whether plain `PIL.Image.open(...).convert("RGB")` is certain to show the same pixels as `open_image`."""


def open_image(
    source: bytes | memoryview | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = LARGEST_FILE
) -> Image.Image:
    """The image as a model sees it: RGB, upright, transparency on white, 16 bits scaled; of an animation the first one.

    Args:
        source: the bytes of an image file, or a path that the caller allows to be opened (see `allowed_path`).
        max_pixels: more are refused by the header, before anything is decoded; at most `MAX_PIXELS`.
        max_bytes: longer files are refused.

    Returns:
        An image of mode RGB without metadata, so that nothing turns it again.

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
    except Exception as error:  # Pillow's plug-ins raise whatever the broken bytes lead them to
        raise _undecodable(error) from error


def upright_size(source: bytes | memoryview | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height that `open_image` gives, from the header.

    Raises:
        BadImage: as `open_image`, but for what only decoding can tell.
    """
    return _header(read_file(source) if isinstance(source, Path) else source, max_pixels)[:2]


def read_header(data: bytes | memoryview) -> Header:
    """Upright size and format of an image that a model's processor accepts; no pixel is decoded.

    Raises:
        BadImage: `image-empty`, `image-unreadable`, `image-too-large` or `image-shape`.
    """
    header = _header(data, MAX_PIXELS)
    width, height = header[:2]
    if not (0 < width <= MAX_ASPECT * height and height <= MAX_ASPECT * width):
        raise BadImage(
            "image-shape",
            f"{width}x{height} is more than {MAX_ASPECT} times as long as wide; processors refuse it",
        )
    return header


def check_whole(data: bytes | memoryview, header: Header) -> None:
    """Make sure that the image was not cut off. Decodes only when the file, or its end, looks odd.

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
"""EXIF orientation -> what turns the image upright. From 5 on, width and height change places."""


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, from EXIF or XMP. Always 1 for TIFF, which Pillow turns itself."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata does not make a broken image
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _as_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The image as a model sees it, and why `image.convert("RGB")` would show it differently, if it would."""
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
    """As they came, or a PNG of what `open_image` gives."""
    reason: str | None
    """Why they had to be changed: `orientation`, `depth` (more than 8 bits), `alpha` (RGBA, which verl itself puts on
    white and other readers do not), `transparency` (of any other kind). None when they were not."""


def normalised(data: bytes | memoryview, header: Header) -> Normalised:
    """The bytes of an image that every reader shows as `open_image` does.

    Stock verl, and servers that are not ours, open images by rules of their own. Where theirs give other pixels the
    image becomes a PNG of ours; all other bytes stay as they came.

    Args:
        header: what `read_header` found.

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
    """Samples of more than 8 bits as grey; Pillow would show all above 255 as white.

    16-bit samples have a known range. Of 32-bit integers and floats the smallest usual range that holds them is taken:
    0 to 1 (floats), 0 to 255, 0 to 65,535, or 0 to the largest one.
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
    """The header of a plain JPEG or PNG, ten times as fast as Pillow; None for anything else or anything odd."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_header(data)
    return None


_SEGMENT, _SIDES = struct.Struct(">BBH"), struct.Struct(">HH")


def _jpeg_header(data: bytes | memoryview) -> Header | None:
    at, end, width, height, tagged = 2, len(data) - 9, 0, 0, False
    while at < end:
        lead, marker, length = _SEGMENT.unpack_from(data, at)
        if lead != 0xFF or marker == 0xFF or marker < 0xC0 or marker == 0xD9:
            return None
        if marker == 0xDA:  # the scan, without which there is no image
            break
        # The frame markers; C4, C8 and CC among them are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = _SIDES.unpack_from(data, at + 5)
        tagged |= marker == 0xE1  # EXIF or XMP, which Pillow reads
        at += 2 + length
    if at >= end or not width or not height:
        return None
    return _pillow_header(data)._replace(plain=True) if tagged else Header(width, height, "JPEG", True, True)


_IHDR = struct.Struct(">IIBB")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a channel that each kind of colour may have."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Keywords of PNG texts that may hold an orientation."""


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
    """(kind, start, stop) of the body of every chunk that is there with its checksum."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        start, stop = at + 8, at + 8 + length
        if stop + 4 > len(data):
            return
        yield bytes(data[at + 4 : start]), start, stop
        at = stop + 4


def _pillow_header(data: bytes | memoryview) -> Header:
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_many_pixels(MAX_PIXELS)
            if image.format == "PNG":
                image.load()  # its orientation may stand after the pixels
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
        raise BadImage(
            "image-unreadable", f"no image format fits the bytes ({type(error).__name__}): fetch the file again"
        ) from error


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
    """Whether the chunks follow one another up to the end chunk, each with its right checksum, and nothing is odd.

    Odd are pixels that do not begin as compressed data do, and compressed texts, which may unpack to gigabytes.
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
