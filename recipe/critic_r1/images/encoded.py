"""What a rollout carries of its images, and how a training worker makes pixels of it.

verl stores the image processor's output with every rollout: 100 MB of ``pixel_values`` for an image of 4 megapixels,
eight times for eight rollouts, fetched again for the old log-probabilities, the reference and the update. An
`ImageInputs` takes the place of that dictionary. It travels as the encoded image and the processor's small tensors
(the grid), and becomes the full dictionary where verl reads it, in `extract_multi_modal_inputs`, one micro-batch at a
time, by the same call of the processor.

Pixels are kept in a cache of bounded size in each training process, so that the rollouts of a prompt share one tensor,
and so do the three passes of a step as far as the bound allows. `PixelCache.expect` names the images of the
micro-batches to come; a thread makes them while the model computes.
"""

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

PIXELS = "pixel_values"
"""The one output of the image processors (Qwen2-VL, 2.5, 3) whose size is that of the decoded image."""


@dataclass(frozen=True)
class PixelSettings:
    """Where a training process finds the image processor, and how much it may keep."""

    processor_path: str
    """Folder or remote path, as in ``actor_rollout_ref.model.path``."""
    trust_remote_code: bool = False
    use_shm: bool = False
    cache_bytes: int = 2 << 30
    """Bound of the cache in one process."""
    ahead: int = 4
    """Images made in advance."""


@lru_cache(maxsize=1)
def _processor(path: str, trust_remote_code: bool, use_shm: bool) -> Any:
    from verl.utils import hf_processor
    from verl.utils.fs import copy_to_local

    processor = hf_processor(copy_to_local(path, use_shm=use_shm), trust_remote_code=trust_remote_code)
    if processor is None:
        raise RuntimeError(f"no image processor in {path}, and the rollouts have images: complete the model's folder")
    return processor


class ImageInputs:
    """``multi_modal_inputs`` of a rollout: a mapping from name to tensor whose pixels are made when it is read.

    Only what verl asks of it is offered: ``in``, ``[]``, ``get``, ``keys`` and ``items``. It is no `dict`, because
    TensorDict and TransferQueue would take a dictionary apart and so make its pixels.
    """

    def __init__(
        self,
        small: dict[str, torch.Tensor],
        images: Sequence[dict[str, Any]],
        settings: PixelSettings,
        processor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            small: the processor's output without its pixels: ``image_grid_thw`` (images, 3) and the like.
            images: the prompt's image items, ``{"type": "image", "bytes": ...}`` or with a path in ``image``.
            settings: where to make pixels of them, and how many to keep.
            processor_kwargs: ``data.mm_processor_kwargs``.
        """
        self.small, self.images = small, list(images)
        self.settings, self.processor_kwargs = settings, dict(processor_kwargs or {})
        self.key = _key(self.images, self.processor_kwargs, settings.processor_path)

    def __contains__(self, name: object) -> bool:
        return name == PIXELS or name in self.small

    def __getitem__(self, name: str) -> torch.Tensor:
        return pixel_cache().get(self) if name == PIXELS else self.small[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The tensor of this name, or ``default``."""
        return pixel_cache().get(self) if name == PIXELS else self.small.get(name, default)

    def keys(self) -> Iterator[str]:
        """Names of all tensors, the pixels' first."""
        yield PIXELS
        yield from self.small

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors; this is where verl gets its pixels."""
        return ((name, self[name]) for name in self.keys())

    def make_pixels(self) -> torch.Tensor:
        """The processor's ``pixel_values`` for these images, as verl's call for a rollout makes them."""
        # Imported here: TransferQueue's storage holds these objects too, and needs neither verl nor a data set for it.
        from verl.utils.tokenizer.tokenizer import build_multimodal_processor_inputs

        from recipe.critic_r1.images.dataset import EncodedImageDataset

        settings = self.settings
        processor = _processor(settings.processor_path, settings.trust_remote_code, settings.use_shm)
        patch = getattr(getattr(processor, "image_processor", None), "patch_size", 14)
        chat = [{"role": "user", "content": self.images}]
        images, _, _ = EncodedImageDataset._process_multi_modal_info(chat, image_patch_size=patch, config=None)
        if not self.processor_kwargs:  # without the text, a third of the time for a small image
            return torch.as_tensor(processor.image_processor(images=images, return_tensors="pt")[PIXELS])
        output = build_multimodal_processor_inputs(
            processor,
            # The processor wants a text with as many placeholders as images; its tokens are not used.
            text=[processor.image_token * len(self.images)],
            images=images,
            mm_processor_kwargs=self.processor_kwargs,
        )
        return torch.as_tensor(output[PIXELS])


def _key(images: list[dict[str, Any]], processor_kwargs: dict[str, Any], path: str) -> str:
    digest = hashlib.sha256(repr((path, sorted(processor_kwargs.items()))).encode())
    for image in images:
        rest = sorted((name, repr(value)) for name, value in image.items() if name != "bytes")
        digest.update(repr(rest).encode())
        digest.update(image.get("bytes") or b"")
    return digest.hexdigest()


def travels_encoded(images: Sequence[dict[str, Any]], pixels: torch.Tensor) -> bool:
    """Whether these images are better sent as they were stored than as the processor's ``pixels``.

    They must have their bytes, or a path or address that a worker can open; and take less than the pixels, which a
    large file of which the processor keeps little does not.
    """
    if not all(isinstance(item.get("bytes"), bytes) or isinstance(item.get("image"), str) for item in images):
        return False
    return sum(len(item.get("bytes") or b"") for item in images) < pixels.numel() * pixels.element_size()


@dataclass
class PixelCounts:
    """What a process did with images since the last `PixelCache.take_counts`."""

    asked: int = 0
    made: int = 0


@dataclass
class _Kept:
    pixels: "Future[torch.Tensor]"
    size: int = 0
    """Bytes; 0 until the pixels are made."""


@dataclass
class PixelCache:
    """Pixels by content, at most ``settings.cache_bytes`` of them, least recently used out first.

    Thread-safe. An image larger than the bound is made and handed out, and not kept.
    """

    _kept: "OrderedDict[str, _Kept]" = field(default_factory=OrderedDict)
    _expected: "deque[ImageInputs]" = field(default_factory=deque)
    _lock: Any = field(default_factory=threading.RLock)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "images"))
    _bytes: int = 0
    counts: PixelCounts = field(default_factory=PixelCounts)

    def get(self, inputs: ImageInputs) -> torch.Tensor:
        """The pixels of these images, made here if nobody has begun to."""
        with self._lock:
            self.counts.asked += 1
            if self._expected and any(inputs.key == expected.key for expected in self._expected):
                while self._expected and self._expected.popleft().key != inputs.key:
                    pass
            kept, ours = self._begin(inputs)
        if ours:
            self._make(inputs, kept)
        pixels = kept.pixels.result()
        self._prepare_next()
        return pixels

    def expect(self, inputs: Iterable[Any], *, only: bool = False) -> None:
        """Name the rollouts to come, in the order in which their pixels will be asked for; others are passed over.

        Args:
            only: whether no other image will be asked for in this step; those that are kept are dropped.
        """
        with self._lock:
            self._expected = deque()
            last = None
            for item in inputs:
                if isinstance(item, ImageInputs) and item.key != last:
                    self._expected.append(item)
                    last = item.key
            if only:
                to_come = {item.key for item in self._expected}
                self._drop(key for key in list(self._kept) if key not in to_come)
        self._prepare_next()

    def take_counts(self) -> PixelCounts:
        """What was done since the last call."""
        with self._lock:
            counts, self.counts = self.counts, PixelCounts()
        return counts

    def _begin(self, inputs: ImageInputs) -> tuple[_Kept, bool]:
        """The entry for these images, and whether the caller has to make them."""
        kept = self._kept.get(inputs.key)
        if kept is not None:
            self._kept.move_to_end(inputs.key)
            return kept, False
        kept = self._kept[inputs.key] = _Kept(Future())
        return kept, True

    def _make(self, inputs: ImageInputs, kept: _Kept) -> None:
        try:
            pixels = inputs.make_pixels()
        except BaseException as error:
            with self._lock:
                self._kept.pop(inputs.key, None)
            kept.pixels.set_exception(error)
            return
        with self._lock:
            self.counts.made += 1
            kept.size = pixels.numel() * pixels.element_size()
            self._bytes += kept.size
            kept.pixels.set_result(pixels)
            self._drop(key for key in list(self._kept) if self._bytes > inputs.settings.cache_bytes)

    def _drop(self, keys: Iterable[str]) -> None:
        """Forget pixels, but not those that are being made."""
        for key in keys:
            if self._kept[key].size:
                self._bytes -= self._kept.pop(key).size

    def _prepare_next(self) -> None:
        with self._lock:
            begun = []
            for inputs in list(self._expected)[: self._expected[0].settings.ahead if self._expected else 0]:
                kept, ours = self._begin(inputs)
                if ours:
                    begun.append((inputs, kept))
        for inputs, kept in begun:
            self._thread.submit(self._make, inputs, kept)


@lru_cache(maxsize=1)
def pixel_cache() -> PixelCache:
    """The cache of this process."""
    return PixelCache()
