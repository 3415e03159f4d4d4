"""An image as all rollouts of a prompt show it to the rollout engine: decoded once, copied and hashed never again.

vLLM looks up each image of each request by a hash of its pixels: 12 MB to be copied out of Ray's object store, copied
again and hashed, for every rollout of a prompt with an image of 4 megapixels, to find what it has. Here the pixels
stay in the object store until somebody asks for them, which vLLM does for the first rollout, and the hash comes along
where vLLM looks first: in the Exif tag ``ImageID``.
"""

import hashlib
import uuid
from pickle import PickleBuffer
from typing import Any

from PIL import ExifTags, Image


class SharedImage(Image.Image):
    """A Pillow image whose pixels are read when they are first used.

    Pickled with protocol 5 its pixels travel out of band, which Ray hands out without a copy.
    """

    def __init__(self, mode: str, size: tuple[int, int], pixels: Any, content: uuid.UUID) -> None:
        """
        Args:
            mode: Pillow's, without a palette.
            size: width and height.
            pixels: what `Image.tobytes` gives, as an object with a buffer.
            content: the same for the same mode, size and pixels.
        """
        super().__init__()
        self._mode, self._size = mode, size  # as Pillow's own image plug-ins do
        self._pixels, self._content = pixels, content
        self.getexif()[ExifTags.Base.ImageID] = content

    @classmethod
    def of(cls, image: Image.Image) -> "SharedImage":
        """A copy of an image that has no palette."""
        if image.palette is not None:
            raise ValueError(f"mode {image.mode}: an image with a palette cannot be shared; convert it to RGB")
        pixels = image.tobytes()
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode())
        digest.update(pixels)
        return cls(image.mode, image.size, pixels, uuid.UUID(bytes=digest.digest()[:16]))

    def load(self) -> Any:
        """Pillow's hook before any use of the pixels."""
        if self._pixels is not None:
            pixels, self._pixels = self._pixels, None
            self.im = Image.frombytes(self._mode, self._size, pixels).im
        return super().load()

    def __reduce_ex__(self, protocol: Any) -> Any:
        pixels = self.tobytes() if self._pixels is None else self._pixels
        carried = PickleBuffer(pixels) if protocol >= 5 else bytes(pixels)
        return SharedImage, (self._mode, self._size, carried, self._content)
