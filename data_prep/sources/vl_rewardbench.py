"""MMInstruction/VL-RewardBench: 1,250 pairs, for evaluation.

`human_ranking` gives a rank to each of the two responses: [0, 1] means that the first is better. The official groups
go by the id's beginning.
"""

from collections.abc import Iterator
from typing import Any

from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    checked_text,
    get,
    kept,
    make_pair,
    number,
    question_text,
    read_images,
    sequence,
)

_HALLUCINATION = ("rlaif", "rlhf", "hallucination")
_REASONING = ("mathverse", "mmmu")


def group(identifier: str) -> str:
    """The official group of a row: `hallucination`, `reasoning` or `general`."""
    lowered = identifier.lower()
    if lowered.startswith(_HALLUCINATION):
        return "hallucination"
    return "reasoning" if lowered.startswith(_REASONING) else "general"


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with its official group as `category` in its meta."""
    responses = sequence(record, "response")
    if len(responses) != 2:
        raise Reject("not-pairwise", f"'response' has {len(responses)} entries, not two")
    meta = kept(record, "id", "query_source")
    if "id" in meta:
        meta["category"] = group(str(meta["id"]))
    yield make_pair(
        "vl_rewardbench",
        read_images(record, "image"),
        question_text(get(record, "query"), "'query'"),
        (checked_text(responses[0], "response 1"), checked_text(responses[1], "response 2")),
        _label(sequence(record, "human_ranking")),
        meta,
    )


def _label(ranking: list[Any]) -> Any:
    if len(ranking) != 2:
        raise Reject("bad-ranking", f"'human_ranking' has {len(ranking)} entries, not two")
    first, second = (number(r, "a rank") for r in ranking)
    return "tie" if first == second else int(second < first)


SOURCE = Source(
    "vl_rewardbench",
    "MMInstruction/VL-RewardBench",
    convert,
    licence="MIT in its first card, later none named; images: see card",
    size="1,250 pairs",
    label_rule="human_ranking: [0, 1] = the first is better",
)
