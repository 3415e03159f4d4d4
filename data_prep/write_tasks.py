"""Preference pairs that are already in memory, written as tasks."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from data_prep.tasks.ordering import Orders, preference_tasks
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.writer import write_parquet


def write_tasks(
    pairs: Iterable[PreferencePair],
    folder: str | os.PathLike[str],
    *,
    split: str = "train",
    seed: int = 0,
    orders: Orders = "balanced",
    template: str = "critic",
    ties: bool = True,
) -> dict[str, Any]:
    """Write pairs as Parquet files that stock verl trains on, with a manifest, into `folder`; returns the manifest.

    Args:
        pairs: an image that is given by its path is read from there.
        split: first part of the files' names.
        seed: decides the orders and drawn templates.
        orders: `balanced` (better response first in half of the rows), `both` (each pair twice), `as_is`.
        template: a name in `data_prep.tasks.prompts.TEMPLATES`, or `drawn` for a seeded draw.
        ties: whether the prompts offer a tie; pairs that are ties need it.

    Raises:
        ValueError: a pair has two equal responses, prefers neither of them, or is a tie that the prompt does not offer;
            or there is no pair.
        OSError: an image cannot be read.
    """
    settings = {"source": "write_tasks", "split": split, "seed": seed, "orders": orders, "template": template,
                "ties": "keep" if ties else "drop"}  # fmt: skip
    checked = _checked(pairs, ties)
    tasks = preference_tasks(checked, split=split, seed=seed, orders=orders, template=template, ties=ties)
    return write_parquet(tasks, folder, settings=settings)


def _checked(pairs: Iterable[PreferencePair], ties: bool) -> Iterator[PreferencePair]:
    for place, pair in enumerate(pairs):
        if isinstance(pair.preferred, bool) or pair.preferred not in (0, 1, "tie"):
            raise ValueError(f"pair {place}: preferred is {pair.preferred!r}; it is 0, 1 or 'tie'")
        if pair.preferred == "tie" and not ties:
            raise ValueError(f"pair {place} is a tie, which ties=False does not let the judge answer")
        if any(image.data is None for image in pair.images):
            images = [i if i.data is not None else Image.from_path(i.path or "") for i in pair.images]
            pair = replace(pair, images=images)
        if pair.same_responses:
            raise ValueError(f"pair {place}: both responses are the same text, with the same images if any")
        if min(pair.response_images) < 0 or sum(pair.response_images) > len(pair.images):
            raise ValueError(f"pair {place}: response_images is {pair.response_images} of {len(pair.images)} images")
        yield pair
