"""LLaMA-Factory's sharegpt form of preference data (llamafactory/RLHF-V, Zhihui/VLFeedback).

The talk so far stands in `conversations`, the two candidates for the next turn in `chosen` and `rejected`.
"""

from collections.abc import Iterator
from typing import Any

from data_prep.sources.llava_human_preference import _question
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Source,
    checked_text,
    get,
    kept,
    make_pair,
    read_images,
    sequence,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    turns = [_with_names(turn) for turn in sequence(record, "conversations")]
    yield make_pair(
        "sharegpt_ranking",
        read_images(record, "images", "image"),
        _question(turns),
        (_answer(get(record, "chosen"), "'chosen'"), _answer(get(record, "rejected"), "'rejected'")),
        0,
        kept(record, "id"),
    )


def _with_names(turn: Any) -> dict[str, Any]:
    """A turn with the keys `from` and `value`, whichever of the two usual namings it has."""
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    value = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
    return {"from": speaker, "value": value}


def _answer(value: Any, what: str) -> str:
    return checked_text(value if isinstance(value, str) else get(_with_names(value), "value"), what)


SOURCE = Source(
    "sharegpt_ranking",
    "LLaMA-Factory sharegpt ranking",
    convert,
    licence="that of the set",
    size="any",
    label_rule="chosen",
)
