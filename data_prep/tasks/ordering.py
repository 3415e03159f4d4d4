"""Which response is shown first, which split a row belongs to, which label is flipped: all by seeded hash.

Nothing here draws from a random generator with a state. Each decision is a function of the seed and of the row, so it
is the same on any machine, for any number of workers and after any restart.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from data_prep.tasks.pairwise import PreferencePair, PreferenceTask
from data_prep.tasks.prompts import DRAWN, PromptTemplate, get_template
from data_prep.tasks.twins import Twins

Orders = Literal["balanced", "both", "as_is"]


def seeded_fraction(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts only, and looks random."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    raw = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(raw, "little") >> 11) * 2.0**-53


def balanced_order(pair: PreferencePair, ordinal: int, seed: int) -> int:
    """The order (0 or 1) that puts the better response first in half of the rows.

    Of two neighbouring rows (2k, 2k + 1) a hash of k decides for the first and the second gets the other label, so an
    unbroken run of rows is balanced exactly and a run with gaps nearly so. The hash is over the place of the *label*,
    not over the order: a source that always lists the better response first still comes out balanced.

    Args:
        ordinal: the place of the row in its source.
    """
    better_first = _coin(seed, pair.source, ordinal // 2) ^ bool(ordinal % 2)
    preferred = 0 if pair.preferred == "tie" else pair.preferred
    return preferred if better_first else 1 - preferred


@dataclass
class Turns:
    """The running number of each pair among those of its split, in one stretch of the input that is read as a whole.

    As ordinals for `balanced_order` these have no gaps, even where records were rejected or went to another split, so
    that the labels of a split stay balanced. Ties, which have no better response, are counted apart.
    """

    start: int = 0
    """Ordinal of the stretch's first record."""
    twins: Twins = field(default_factory=Twins)
    _taken: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def next(self, split: str, *, tie: bool) -> int:
        """The number of the next pair of `split`; numbers of different stretches and splits are far apart."""
        place = self._taken[split, tie]
        self._taken[split, tie] += 1
        lane = 4 * self.start + 2 * (split == "val") + tie
        return (lane << 24) + place


@lru_cache(maxsize=256)
def _coin(seed: int, source: str, couple: int) -> bool:
    """What two neighbouring rows share; kept, because the second asks right after the first."""
    return seeded_fraction(seed, "order", source, couple) < 0.5


def split_of(image_keys: Iterable[str], *, seed: int, val_share: float) -> str | None:
    """The split, `train` or `val`, of a row with these images; None when its images belong to different splits.

    Each image belongs to one split by its own hash, in every row. A row whose images disagree can go
    nowhere without putting an image in two splits, so it has to be left out.

    Args:
        image_keys: the digest of each image; for a row without images, any key of its content.
        val_share: share of the images that go to `val`, from 0 to 1.
    """
    splits = {"val" if seeded_fraction(seed, "split", key) < val_share else "train" for key in image_keys}
    return splits.pop() if len(splits) == 1 else None


def choose_template(name: str, pair_id: str, seed: int) -> PromptTemplate:
    """The template called `name`; for `drawn`, one of all full templates by the hash of the pair."""
    if name == "drawn":
        name = DRAWN[int(seeded_fraction(seed, "template", pair_id) * len(DRAWN))]
    return get_template(name)


def is_flipped(pair_id: str, seed: int, share: float) -> bool:
    """Whether the label of this pair is flipped in a control run with `share` of flipped labels.

    Both orders of a pair are flipped together, so a control stays consistent under swapping.
    """
    return share > 0 and seeded_fraction(seed, "flip", pair_id) < share


def shuffled_places(pair_id: str, n: int, seed: int) -> tuple[int, ...]:
    """The order in which a prompt shows the `n` responses of an N-way task."""
    return tuple(sorted(range(n), key=lambda place: seeded_fraction(seed, "nway", pair_id, place)))


def preference_tasks(
    pairs: Iterable[PreferencePair],
    *,
    split: str = "train",
    seed: int = 0,
    orders: Orders = "balanced",
    template: str = "critic",
    ties: bool = False,
    flip_labels: float = 0.0,
    start: int = 0,
) -> Iterator[PreferenceTask]:
    """Tasks of one split from pairs: one for each pair, or two when `orders` is `both`.

    Args:
        pairs: pairs of one source, in the order of the source.
        split: name of the split, the first part of the shard's file name.
        seed: decides orders, drawn templates and flips.
        orders: `balanced` (better response first in half of the rows), `both` (each pair twice), `as_is`.
        template: a name in `prompts.TEMPLATES`, or `drawn` for a seeded draw.
        ties: whether the prompt offers a tie.
        flip_labels: share of the pairs, 0 to 1, whose label is flipped: a control run that must not improve the model.
        start: ordinal of the first pair.

    Raises:
        ValueError: unknown template, or a share outside 0 to 1.
    """
    if not 0 <= flip_labels <= 1:
        raise ValueError(f"flip_labels is a share from 0 to 1, not {flip_labels}")
    for ordinal, pair in enumerate(pairs, start):
        chosen = choose_template(template, pair.pair_id, seed)
        flipped = is_flipped(pair.pair_id, seed, flip_labels)
        for order in orders_of(pair, ordinal, seed, orders):
            yield PreferenceTask(pair, order, split, ordinal, chosen, ties, flipped)


def orders_of(pair: PreferencePair, ordinal: int, seed: int, orders: Orders) -> tuple[int, ...]:
    """The orders in which one pair is shown."""
    if orders == "both":
        return (0, 1)
    if orders == "as_is":
        return (0,)
    return (balanced_order(pair, ordinal, seed),)
