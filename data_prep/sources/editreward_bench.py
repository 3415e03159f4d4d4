"""TIGER-Lab/EditReward-Bench: edits of one image compared two at a time by people, for evaluation.

A row is one comparison of two, three or four edits. `comparison_type` says which two it shows (`AvsC`), and `ranking`
which is better (`A>C`); pairs of two may be ties (`A=B`, `A=B=Good`). The beginning of the id, up to `_`, is the same
in all comparisons of one group of edits.
"""

import re
from collections.abc import Iterator
from typing import Any

from data_prep.sources.illustrated import image_pair
from data_prep.sources.labels import unknown_label
from data_prep.sources.record import Item, Options, Record, Source, get, kept, question_text, read_images

_COMPARED = re.compile(r"([A-D])vs([A-D])")
_RANKING = re.compile(r"([A-D]) ?([<=>]) ?([A-D])(?:=(?:Good|Bad))?")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with the number of edits as `category` and the group of edits as `group` in its meta."""
    meta = kept(record, "id", "comparison_type", "model_1", "model_2")
    kind = kept(record, "dataset").get("dataset")
    if "id" in meta:
        identifier = str(meta["id"])
        group = identifier.partition("_")[0] if "_" in identifier else identifier[:10]  # as the official script groups
        meta["group"] = f"{kind}/{group}"
    yield image_pair(
        "editreward_bench",
        question_text(get(record, "instruction"), "'instruction'"),
        read_images(record, "source_image"),
        (get(record, "candidate_1"), get(record, "candidate_2")),
        _better(get(record, "ranking"), record.get("comparison_type") or "AvsB"),
        {**meta, "category": kind},
    )


def _better(ranking: Any, compared: Any) -> Any:
    """The place of the better edit: the first letter of `compared` is the first edit."""
    names = _COMPARED.fullmatch(compared) if isinstance(compared, str) else None
    found = _RANKING.fullmatch(ranking.strip()) if isinstance(ranking, str) else None
    if names is None or found is None or {found[1], found[3]} != set(names.groups()) or found[1] == found[3]:
        raise unknown_label(f"{ranking} for {compared}", "'ranking'")
    if found[2] == "=":
        return "tie"
    return int((found[1] == names[1]) != (found[2] == ">"))


SOURCE = Source(
    "editreward_bench",
    "TIGER-Lab/EditReward-Bench",
    convert,
    licence="see card",
    size="1,524 pairs of 484 groups of edits",
    label_rule="ranking: A>B, B>A, A=B for the two letters of comparison_type",
)
