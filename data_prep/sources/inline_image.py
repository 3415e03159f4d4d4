"""Images written as text: data URIs and bare base64, as chat messages and VLMEvalKit's tables hold them."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from data_prep.sources.reject import Reject

LONGEST = 4 * 2**28
"""Characters of an image as base64 text; more than the largest image file that is read (256 MiB)."""

LEAST_BASE64 = 64
"""Characters from which text may be an image; no image file is shorter, and file names rarely are longer."""

_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A")
"""Beginnings of JPEG, PNG, GIF, WEBP, BMP and TIFF files in base64."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_HEADER = re.compile(r"data:[\w.+-]{0,60}/?[\w.+-]{0,60}(?:;[\w.+-]{1,60}=[^;,]{0,100}){0,5}(;base64)?,", re.IGNORECASE)


def inline_image(text: str, what: str) -> bytes | None:
    """The bytes of an image that is written as a data URI or as base64; None for any other text.

    Raises:
        Reject: `image-unreadable`; it begins as such a text and cannot be decoded, or is too long.
    """
    text = text.strip()
    remedy = "Write the image again as a file or as base64."
    if text[:5].lower() == "data:":
        header = _HEADER.match(text[:1000])
        if header is None:
            raise Reject("image-unreadable", f"{what} is a damaged data URI", remedy)
        body = text[header.end() :]
        if not header[1]:
            return unquote_to_bytes(body)
    elif len(text) < LEAST_BASE64 or not text.startswith(_STARTS) or not _BASE64.fullmatch(text):
        return None
    else:
        body = text
    if len(body) > LONGEST:
        raise Reject("image-too-large", f"{what} has {len(body)} characters of base64", "Shrink the image.")
    body = "".join(body.split()).rstrip("=").translate(_STANDARD)
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Reject("image-unreadable", f"{what} is damaged base64 ({error})", remedy) from None


_STANDARD = str.maketrans("-_", "+/")
"""From the alphabet for addresses to the standard one."""
