"""Images for the tests, made on the spot."""

import io

import numpy as np
from PIL import Image


def make_image(seed: int = 0, size: tuple[int, int] = (32, 24), form: str = "JPEG") -> bytes:
    """A small image with enough structure that its perceptual hash means something."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    stream = io.BytesIO()
    noise.resize(size, Image.Resampling.BICUBIC).save(stream, form)
    return stream.getvalue()
