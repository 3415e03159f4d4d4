"""Handwritten digits as critic data: the paper's setting at the size of a laptop.

The images are real: the 1,797 digits of the UCI hand-written digits test set that scikit-learn ships, so the demo
needs no download. The question about each is "What digit is shown?".

scikit-learn is imported inside the loader only. It takes seconds to import, and training processes import this package.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from data_prep.tasks.ordering import seeded_fraction
from data_prep.tasks.pairwise import Image

SOURCE = "digits"
QUESTION = "What digit is shown?"
SIDE = 56
"""Pixels: with 14-pixel patches merged two by two, an image becomes 2 x 2 tokens of a Qwen2.5-VL."""


@dataclass(frozen=True)
class DigitImage:
    """One digit as an image file."""

    index: int
    """Place in scikit-learn's set, 0 to 1796."""
    label: int
    """The digit, 0 to 9."""
    png: bytes = field(repr=False)
    """56 x 56 RGB PNG."""

    @property
    def image(self) -> Image:
        """The record that tasks carry."""
        return Image(self.png, f"digits/{self.index:04d}.png")


@lru_cache(maxsize=1)
def load_digit_images() -> list[DigitImage]:
    """All 1,797 digits, enlarged bicubically from 8 x 8 to 56 x 56; the same bytes at every call.

    Raises:
        ImportError: scikit-learn is missing; the message says how to get it.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: install critic-r1[digits]") from error
    import PIL.Image

    images = []
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        # 16 grey levels; rounded here, so that the bytes do not depend on how a cast rounds.
        grey = (pixels * 255 / 16).round().astype("uint8")
        image = PIL.Image.fromarray(grey).resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC).convert("RGB")
        stream = io.BytesIO()
        image.save(stream, "PNG")
        png = stream.getvalue()
        images.append(DigitImage(index, int(label), png))
    return images


def digit_split(seed: int, n_warm_start: int = 60, n_rl: int = 1000, n_test: int = 400) -> dict[str, list[int]]:
    """Disjoint image indices for `warm_start`, `rl` and `test`, drawn by seed.

    Equal images count as one, so no image is in two splits. The test set depends on the seed and on `n_test`
    only: changing the size of the training data leaves it as it is. The warm start gets every digit equally often (to
    within one): a handful of images drawn freely can lack a digit altogether, and no later step would make up for it.

    Raises:
        ValueError: more images are asked for than exist.
    """
    unique = sorted({p.png: p.index for p in reversed(load_digit_images())}.values())
    wanted = n_warm_start + n_rl + n_test
    if min(n_warm_start, n_rl, n_test) < 0 or wanted > len(unique):
        raise ValueError(f"{wanted} digits asked for, {len(unique)} exist: lower n_warm_start, n_rl or n_test")
    shuffled = sorted(unique, key=lambda i: seeded_fraction(seed, "digit", i))
    test, training = shuffled[:n_test], shuffled[n_test:]
    warm_start = _round_robin_by_digit(training)[:n_warm_start]
    taken = set(warm_start)
    return {"test": test, "warm_start": warm_start, "rl": [i for i in training if i not in taken][:n_rl]}


def _round_robin_by_digit(indices: Sequence[int]) -> list[int]:
    """The same images, the first of each digit first, then the second of each, and so on."""
    images, earlier = load_digit_images(), Counter[int]()
    rounds = {}
    for i in indices:
        rounds[i] = earlier[images[i].label]
        earlier[images[i].label] += 1
    return sorted(indices, key=rounds.__getitem__)
