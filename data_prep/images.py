"""What can be known about a picture without decoding it: its size, whether it is whole, its hash.

Decoding is what makes the usual conversion slow, and encoding again changes every byte. Neither is needed: the header
gives the size, the end of the file tells whether it was cut, and only a file whose end looks odd is decoded to be sure.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
"""Formats that are tried. A closed list: some of Pillow's others run foreign interpreters."""

MAX_PIXELS = 178_956_970
"""Pixels above which a picture is refused: the size at which Pillow calls a file a decompression bomb."""

MAX_ASPECT = 200
"""Longest side over shortest above which the Qwen2-VL processors refuse a picture."""

TAIL = 1024
"""Bytes at the end of a file in which its end marker is looked for; cameras append a few."""


class BadPicture(ValueError):
    """A picture that cannot be used. `reason` is a short code for counting, the message says what to do."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    format: str
    """Pillow's name of the format."""


def read_header(data: bytes) -> Header:
    """Size and format from the header; no pixel is decoded (about 20 microseconds).

    Raises:
        BadPicture: `picture-empty`, `picture-unreadable`, `picture-too-large` or `picture-shape`.
    """
    if not data:
        raise BadPicture("picture-empty", "the picture has no bytes: fetch the set again or drop the row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                header = Header(image.width, image.height, image.format or "")
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except Exception as error:  # Pillow's plug-ins raise whatever the broken bytes lead them to
        raise BadPicture(
            "picture-unreadable", f"no picture format fits the bytes ({type(error).__name__}): fetch the file again"
        ) from error
    if header.width * header.height > MAX_PIXELS:
        raise _too_large()
    short, long = sorted((header.width, header.height))
    if short < 1 or long > MAX_ASPECT * short:
        raise BadPicture(
            "picture-shape",
            f"{header.width}x{header.height} is more than {MAX_ASPECT} times as long as wide; processors refuse it",
        )
    return header


def _too_large() -> BadPicture:
    return BadPicture("picture-too-large", f"more than {MAX_PIXELS} pixels: shrink the picture or drop the row")


def check_whole(data: bytes, header: Header) -> None:
    """Make sure that the picture was not cut off. Decodes only when the end of the file looks odd.

    Raises:
        BadPicture: `picture-truncated`.
    """
    ends = {"JPEG": _jpeg_ends, "PNG": _png_ends, "WEBP": _webp_ends, "GIF": _gif_ends}.get(header.format)
    if ends is None or not ends(data):
        decode(data)


def _jpeg_ends(data: bytes) -> bool:
    return b"\xff\xd9" in data[-TAIL:]


def _gif_ends(data: bytes) -> bool:
    return data.endswith(b"\x00\x3b")


def _webp_ends(data: bytes) -> bool:
    return len(data) >= struct.unpack_from("<I", data, 4)[0] + 8


def _png_ends(data: bytes) -> bool:
    """Whether the chunks follow one another up to the end chunk, each with its right checksum."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        stop = at + 8 + length
        if stop + 4 > len(data):
            return False
        if zlib.crc32(memoryview(data)[at + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = stop + 4
    return False


def decode(data: bytes) -> Image.Image:
    """The picture as RGB.

    Raises:
        BadPicture: `picture-truncated` when the pixels cannot be read; what `read_header` raises.
    """
    read_header(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.convert("RGB")
    except Exception as error:  # as above
        raise BadPicture(
            "picture-truncated", f"the picture cannot be decoded ({error}): fetch the file again or drop the row"
        ) from error
