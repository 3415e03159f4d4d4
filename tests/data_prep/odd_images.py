"""Images that readers show differently: turned, transparent, of many bits, of other colours."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

RED, BLUE, WHITE, DARK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (20, 20, 20)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photo(orientation: int, form: str = "JPEG", size: tuple[int, int] = (120, 60)) -> bytes:
    """Red on the left half and blue on the right one, with an orientation in its EXIF."""
    image = Image.new("RGB", size, BLUE)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1] - 1), fill=RED)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    return saved(image, form, exif=exif, **options)


def _square(mode: str, ground: Any, figure: Any) -> Image.Image:
    image = Image.new(mode, (64, 64), ground)
    ImageDraw.Draw(image).rectangle((20, 20, 40, 40), fill=figure)
    return image


def _palette() -> Image.Image:
    image = _square("P", 0, 1)
    image.putpalette([0, 0, 0, *DARK] + [0] * 750)
    return image


TRANSPARENT = {
    "palette PNG": saved(_palette(), transparency=0),
    "RGBA PNG": saved(_square("RGBA", (0, 0, 0, 0), (*DARK, 255))),
    "grey and alpha PNG": saved(_square("LA", (0, 0), (20, 255))),
    "RGB PNG with a transparent colour": saved(_square("RGB", (0, 0, 0), DARK), transparency=(0, 0, 0)),
    "grey PNG with a transparent shade": saved(_square("L", 0, 20), transparency=0),
    "GIF": saved(_palette(), "GIF", transparency=0),
    "WEBP": saved(_square("RGBA", (0, 0, 0, 0), (*DARK, 255)), "WEBP", lossless=True),
    "TIFF": saved(_square("RGBA", (0, 0, 0, 0), (*DARK, 255)), "TIFF"),
}
"""A dark square on a ground that nobody should see."""

RAMP = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)

DEEP = {
    "16-bit PNG": saved(Image.fromarray(RAMP.astype("uint16"))),
    "16-bit TIFF": saved(Image.fromarray(RAMP.astype("uint16")), "TIFF"),
    "32-bit TIFF": saved(Image.fromarray(RAMP.astype("int32")), "TIFF"),
    "TIFF of 32-bit integers": saved(Image.fromarray((RAMP * 30_000).astype("int32")), "TIFF"),
    "TIFF of 8 bits in 32": saved(Image.fromarray((RAMP / 257).astype("int32")), "TIFF"),
    "TIFF of floats to 1": saved(Image.fromarray((RAMP / 65_535).astype("float32")), "TIFF"),
    "TIFF of floats": saved(Image.fromarray(RAMP.astype("float32")), "TIFF"),
}
"""A ramp from black to white."""
