"""Handwritten digits as critic data: the paper's setting at the size of a laptop.

The images are real: the 1,797 digits of the UCI hand-written digits test set that scikit-learn ships, so the demo
needs no download. An image asks "What digit is shown?"; a pair sets the true digit against a wrong one. Which wrong
digits are worth comparing is for the caller to say: the errors of the very policy that will be trained make the
hardest pairs.

scikit-learn is imported inside the loader only. It takes seconds to import, and training processes import this package.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from data_prep.tasks.ordering import seeded_fraction
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair

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


def random_wrong_digits(indices: Sequence[int], seed: int, n: int = 1) -> dict[int, list[int]]:
    """For each image, `n` different wrong digits drawn by seed (1 to 9)."""
    images = load_digit_images()
    wrong = {}
    for i in indices:
        others = [d for d in range(10) if d != images[i].label]
        shares = {d: seeded_fraction(seed, "wrong", i, d) for d in others}
        wrong[i] = sorted(others, key=shares.__getitem__)[:n]
    return wrong


def digit_pairs(indices: Sequence[int], wrong: Mapping[int, Sequence[int] | int]) -> Iterator[PreferencePair]:
    """Pairs of the true digit (preferred) and a wrong one, for each image in `indices`.

    Args:
        indices: places in the set, as `digit_split` gives them.
        wrong: for each index one wrong digit or several; several give as many pairs. Images without one are left
            out. Answers of the policy that are not digits cannot be used.

    Raises:
        ValueError: a wrong response equals the true digit or is not a digit.
    """
    images = load_digit_images()
    for i in indices:
        given = wrong.get(i, ())
        for digit in (given,) if isinstance(given, int) else given:
            if digit == images[i].label or not 0 <= digit <= 9:
                raise ValueError(f"image {i} shows {images[i].label}: {digit} is not a wrong digit from 0 to 9")
            yield PreferencePair(
                source=SOURCE,
                images=(images[i].image,),
                question=QUESTION,
                responses=(str(images[i].label), str(digit)),
                preferred=0,
                meta={"id": i},
            )


def policy_rows(indices: Sequence[int], *, split: str = "test") -> Iterator[PolicyTask]:
    """The plain question for each image, with the digit as its answer."""
    images = load_digit_images()
    for place, i in enumerate(indices):
        yield PolicyTask(SOURCE, (images[i].image,), QUESTION, str(images[i].label), split, place)
