"""What can be known about an image without decoding it: its size, whether it is whole, its hash.

Decoding is what makes the usual conversion slow, and encoding again changes every byte. Neither is needed: the header
gives the size, the end of the file tells whether it was cut, and only a file whose end looks odd is decoded to be sure.
"""

import io
import struct
import warnings
import zlib
from contextlib import ExitStack
from threading import Lock
from typing import NamedTuple

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
"""Formats that are tried. A closed list: some of Pillow's others run foreign interpreters."""

MAX_PIXELS = 178_956_970
"""Pixels above which an image is refused: the size at which Pillow calls a file a decompression bomb."""

MAX_ASPECT = 200
"""Longest side over shortest above which the Qwen2-VL processors refuse an image."""

TAIL = 1024
"""Bytes at the end of a file in which its end marker is looked for; cameras append a few."""


class BadImage(ValueError):
    """An image that cannot be used. `reason` is a short code for counting, the message says what to do."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Header(NamedTuple):
    """What the first bytes of an image say."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    format: str
    """Pillow's name of the format."""
    plain: bool = True
    """Whether the file is built as such files usually are; an odd one is decoded before it is trusted."""


def read_header(data: bytes | memoryview) -> Header:
    """Size and format from the header; no pixel is decoded.

    Raises:
        BadImage: `image-empty`, `image-unreadable`, `image-too-large` or `image-shape`.
    """
    if not data:
        raise BadImage("image-empty", "the image has no bytes: fetch the set again or drop the row")
    header = _quick_header(data) or _pillow_header(data)
    width, height = header[:2]
    if width * height > MAX_PIXELS:
        raise _too_large()
    if not (0 < width <= MAX_ASPECT * height and height <= MAX_ASPECT * width):
        raise BadImage(
            "image-shape",
            f"{header.width}x{header.height} is more than {MAX_ASPECT} times as long as wide; processors refuse it",
        )
    return header


_SEGMENT, _SIDES = struct.Struct(">BBH"), struct.Struct(">HH")
_SCAN = b"\xff\xda"
SCAN_BYTES = 1024
"""Bytes behind the frame's header within which a plain JPEG's scan begins."""
_IHDR = struct.Struct(">IIBB")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a channel that each kind of colour may have."""


def _quick_header(data: bytes | memoryview) -> Header | None:
    """The header of a plain JPEG or PNG, ten times as fast as Pillow; None for anything else or anything odd."""
    if data[:3] == b"\xff\xd8\xff":
        at, end = 2, len(data) - 9
        while at < end:
            lead, marker, length = _SEGMENT.unpack_from(data, at)
            if lead != 0xFF:
                return None
            # The frame markers; C4, C8 and CC among them are tables.
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = _SIDES.unpack_from(data, at + 5)
                # Behind a few tables begins the scan, without which there is no image.
                whole = width and height and _SCAN in bytes(data[at : at + SCAN_BYTES])
                return Header(width, height, "JPEG") if whole else None
            if marker == 0xFF or marker < 0xC0 or marker == 0xD9:
                return None
            at += 2 + length
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) > 32:
        width, height, depth, colour = _IHDR.unpack_from(data, 16)
        return Header(width, height, "PNG") if depth in _PNG_DEPTHS.get(colour, ()) else None
    return None


class _Quiet:
    """No warnings while any thread is inside: `warnings.catch_warnings` alone is not made for several at once."""

    def __init__(self) -> None:
        self._lock, self._inside, self._former = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._former.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._former.close()


_quiet = _Quiet()


def _pillow_header(data: bytes | memoryview) -> Header:
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            name = image.format or ""
            # `_quick_header` did not know what to make of it.
            return Header(image.width, image.height, name, plain=name not in ("JPEG", "PNG"))
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except Exception as error:  # Pillow's plug-ins raise whatever the broken bytes lead them to
        raise BadImage(
            "image-unreadable", f"no image format fits the bytes ({type(error).__name__}): fetch the file again"
        ) from error


def _too_large() -> BadImage:
    return BadImage("image-too-large", f"more than {MAX_PIXELS} pixels: shrink the image or drop the row")


def check_whole(data: bytes | memoryview, header: Header) -> None:
    """Make sure that the image was not cut off. Decodes only when the file, or its end, looks odd.

    Raises:
        BadImage: `image-truncated`.
    """
    ends = _ENDS.get(header.format)
    if not header.plain or ends is None or not ends(data):
        decode(data)


def _jpeg_ends(data: bytes | memoryview) -> bool:
    return data[-2:] == b"\xff\xd9" or b"\xff\xd9" in bytes(data[-TAIL:])


def _gif_ends(data: bytes | memoryview) -> bool:
    return data[-2:] == b"\x00\x3b"


def _webp_ends(data: bytes | memoryview) -> bool:
    return len(data) >= struct.unpack_from("<I", data, 4)[0] + 8


def _png_ends(data: bytes | memoryview) -> bool:
    """Whether the chunks follow one another up to the end chunk, each with its right checksum, and nothing is odd.

    Odd are pixels that do not begin as compressed data do, and packed texts, which may unpack to gigabytes.
    """
    at, pixels = 8, False
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        stop = at + 8 + length
        if stop + 4 > len(data):
            return False
        if zlib.crc32(memoryview(data)[at + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            return False
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"IEND":
            return pixels
        if kind == b"IDAT" and not pixels:
            pixels = length > 1 and data[at + 8] & 15 == 8 and (data[at + 8] << 8 | data[at + 9]) % 31 == 0
            if not pixels:
                return False
        elif kind in _PACKED_TEXT:
            return False
        at = stop + 4
    return False


_PACKED_TEXT = (b"zTXt", b"iTXt", b"iCCP")

_ENDS = {"JPEG": _jpeg_ends, "PNG": _png_ends, "WEBP": _webp_ends, "GIF": _gif_ends}


def decode(data: bytes | memoryview) -> Image.Image:
    """The image as RGB.

    Raises:
        BadImage: `image-truncated` when the pixels cannot be read; what `read_header` raises.
    """
    read_header(data)
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.convert("RGB")
    except Exception as error:  # as above
        raise BadImage(
            "image-truncated",
            f"the image cannot be decoded ({type(error).__name__}: {error}): fetch the file again or drop the row",
        ) from error
