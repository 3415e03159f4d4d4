"""Twins of a pair: the same question and responses under the images of another pair.

A verdict that a judge reaches without looking is the same for both. So the twin's label is a tie: its responses are
about images that it does not show, and neither is better. The idea is the conditional preference of mDPO (arXiv
2406.11839), where the better response must not win under another image. The counterfactual of MJ1 (arXiv 2603.07990) is
the swapped order of the responses, which `--orders both` and `reward_fns.swap_consistency` make use of.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from data_prep.tasks.pairwise import PreferencePair

REMEMBERED = 16
"""Earlier pairs of a split among which another image is looked for: more than a record has, and few images to keep."""

Sizes = list[tuple[int, int]]


@dataclass
class Twins:
    """Makes the twins of the pairs of one stretch of the input, each from a pair that came before it."""

    _earlier: dict[str, deque[tuple[PreferencePair, Sizes]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED))
    )

    def of(self, pair: PreferencePair, sizes: Sizes, split: str) -> tuple[PreferencePair, Sizes] | None:
        """The twin of a pair, with the sizes of its images; None where no earlier pair has fitting images.

        Args:
            sizes: of the images of the pair.
            split: the images are those of a pair of the same split.
        """
        fitting = (known for known in reversed(self._earlier[split]) if lends_images(known[0], pair))
        other = next(fitting, None) if pair.images and not any(pair.response_images) else None
        self._earlier[split].append((pair, sizes))
        if other is None:
            return None
        meta = {**pair.meta, "twin_of": pair.pair_id}
        images = other[0].images
        return replace(pair, source=f"{pair.source}_twin", images=images, preferred="tie", meta=meta), other[1]


def lends_images(other: PreferencePair, pair: PreferencePair) -> bool:
    """Whether neither response of `pair` is right about the images of `other`, as far as can be known.

    There must be as many images, none of them the same. Where the question is the same, the better response of `other`
    must be known and be neither response of `pair`.
    """
    if any(other.response_images) or len(other.images) != len(pair.images):
        return False
    if not {image.blake3 for image in other.images}.isdisjoint(image.blake3 for image in pair.images):
        return False
    if _spelled([other.question]) != _spelled([pair.question]):
        return True
    if other.preferred == "tie":
        return False
    return _spelled([other.responses[other.preferred]]).isdisjoint(_spelled(pair.responses))


def _spelled(texts: Sequence[str]) -> set[str]:
    return {" ".join(text.casefold().split()) for text in texts}
