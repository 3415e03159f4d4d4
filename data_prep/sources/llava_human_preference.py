"""zhiqings/LLaVA-Human-Preference-10K: two answers to the last turn of a talk, compared by people.

The file is one JSON list and names COCO images, which it does not ship. A talk of several turns becomes one question:
the earlier turns are written before the last one, since a judge must know what was already said.
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
    preferred,
    read_images,
    sequence,
    without_markers,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    yield make_pair(
        "llava_human_preference",
        read_images(record, "image"),
        _question(sequence(record, "conversations")),
        (_answer(get(record, "output_1")), _answer(get(record, "output_2"))),
        preferred(get(record, "preference"), "'preference'"),
        kept(record, "id"),
    )


def _answer(output: Any) -> str:
    return checked_text(output if isinstance(output, str) else get(output, "value"), "an output")


def _question(turns: list[Any]) -> str:
    """The talk up to the slot that the two answers fill."""
    lines = []
    for turn in turns:
        human = get(turn, "from") in ("human", "user")
        value = without_markers(checked_text(get(turn, "value"), "a turn", allow_empty=True))
        lines.append((human, value))
    while lines and not lines[-1][0]:
        lines.pop()
    if not lines or not lines[-1][1]:
        raise Reject("empty-text", "the conversation holds no question")
    if len(lines) == 1:
        return lines[0][1]
    return "\n".join(f"{'User' if human else 'Assistant'}: {value}" for human, value in lines)


SOURCE = Source(
    "llava_human_preference",
    "zhiqings/LLaVA-Human-Preference-10K",
    convert,
    licence="CC BY-NC 4.0 (its project page)",
    size="9.4k pairs",
    label_rule="preference: 1 or 2, by people",
    needs_image_root=True,
)
