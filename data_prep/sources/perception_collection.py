"""prometheus-eval/Perception-Collection: responses scored from 1 to 5 by a rubric of their own.

The rubric is part of the question. The reference answer and the feedback are left out.
"""

import re
from collections.abc import Iterator

from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    number,
    question_text,
    read_images,
    text,
)
from data_prep.tasks.pointwise import ScoredResponse

SCALED = "Its levels 1 to 5 are 0, 2.5, 5, 7.5 and 10 on the scale that is asked for."

_RESULT = re.compile(r"\[RESULT\]\s*([1-5])(?![\d.]*\d)")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One scored response."""
    levels = "\n".join(f"{n}: {text(record, f'orig_score{n}_description')}" for n in range(1, 6))
    asked = question_text(get(record, "orig_instruction"), "'orig_instruction'")
    rubric = f"Score by this rubric only: {text(record, 'orig_criteria')}\n{levels}\n{SCALED}"
    score = _score(record)
    if score not in (1, 2, 3, 4, 5):
        raise Reject("bad-rating", f"the score is {score:g}, not a whole number from 1 to 5")
    yield ScoredResponse(
        "perception_collection",
        read_images(record, "image"),
        f"{asked}\n\n{rubric}",
        text(record, "orig_response"),
        score,
        1,
        5,
        kept(record, "id"),
    )


def _score(record: Record) -> float:
    if record.get("orig_score") is not None:
        return number(record["orig_score"], "'orig_score'")
    said = _RESULT.findall(text(record, "output"))
    if len(said) != 1:
        raise Reject("bad-rating", f"'output' has {len(said)} scores after [RESULT]")
    return number(said[0], "the score")


SOURCE = Source(
    "perception_collection",
    "prometheus-eval/Perception-Collection",
    convert,
    licence="CC BY 4.0",
    size="150k scored responses",
    label_rule="orig_score, or the number after [RESULT]; 1 to 5",
    needs_image_root=True,
)
