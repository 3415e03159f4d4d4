"""MMInstruction/VLFeedback: four models' answers, each rated on three aspects by GPT-4V.

The score of an answer is the mean of its ratings. Two answers with equal scores are a tie; a difference that is smaller
than the least gap is neither a tie nor a preference one can trust, so that pair is dropped. Ratings come as texts, and
some are not numbers.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations, zip_longest
from typing import Any

from data_prep.sources.record import (
    MOST_RESPONSES,
    Item,
    Options,
    Record,
    Source,
    checked_text,
    get,
    kept,
    make_pair,
    number,
    parsed_json,
    question_text,
    read_images,
)
from data_prep.sources.reject import Reject, same_responses


def convert(record: Record, options: Options) -> Iterator[Item]:
    """All pairs of answers whose scores are equal or more than `min_gap` apart, but for answers without a score."""
    images = read_images(record, "img_path", "image")
    question = question_text(get(record, "prompt"), "'prompt'")
    answers: list[tuple[str, str, float]] = []
    for answer in _answers(parsed_json(get(record, "completions"), "'completions'")):
        if isinstance(answer, Reject):
            yield answer
        else:
            answers.append(answer)
    if not 2 <= len(answers) <= MOST_RESPONSES:
        raise Reject("not-pairwise", f"{len(answers)} good answers; two are needed, at most {MOST_RESPONSES}")
    if len({answer.strip() for _, answer, _ in answers}) == 1:
        raise same_responses("all answers are the same text")
    for (model_1, text_1, score_1), (model_2, text_2, score_2) in combinations(answers, 2):
        gap = round(abs(score_1 - score_2), 6)
        if text_1.strip() == text_2.strip():
            yield same_responses()
            continue
        if 0 < gap <= options.min_gap:
            detail = f"the mean ratings differ by {gap:g}, and not by more than {options.min_gap}"
            yield Reject("gap-too-small", detail, "Lower --min-gap.")
            continue
        better = "tie" if gap == 0 else int(score_2 > score_1)
        meta = {**kept(record, "id"), "models": [model_1, model_2], "gap": gap}
        yield make_pair("vlfeedback", images, question, (text_1, text_2), better, meta)


def _answers(completions: Any) -> Iterator[tuple[str, str, float] | Reject]:
    """(model, text, mean rating) from a list of completions, or from the columns of one; a `Reject` for a bad one."""
    if isinstance(completions, Mapping):
        columns: list[Any] = [completions.get(k) for k in ("model", "response", "annotations")]
        if any(not isinstance(c, list | tuple) for c in columns):
            raise Reject("wrong-type", "'completions' lacks the lists model, response and annotations")
        rows: list[Any] = [
            dict(zip(("model", "response", "annotations"), r, strict=True)) for r in zip_longest(*columns)
        ]
    elif isinstance(completions, list | tuple):
        rows = list(completions)
    else:
        raise Reject("wrong-type", f"'completions' is a {type(completions).__name__}")
    for row in rows:
        try:
            answer = checked_text(get(row, "response"), "a response")
            yield str(get(row, "model"))[:100], answer, _mean(get(row, "annotations"))
        except Reject as problem:
            yield problem.with_traceback(None)


def _mean(annotations: Any) -> float:
    annotations = parsed_json(annotations, "'annotations'")
    if not isinstance(annotations, Mapping) or not annotations:
        raise Reject("wrong-type", "'annotations' is not an object with aspects")
    ratings = [
        number(get(aspect, "Rating") if isinstance(aspect, Mapping) else aspect, f"the rating of '{name}'")
        for name, aspect in annotations.items()
        if aspect is not None
    ]
    if not ratings:
        raise Reject("missing-field", "'annotations' holds no rating")
    return sum(ratings) / len(ratings)


SOURCE = Source(
    "vlfeedback",
    "MMInstruction/VLFeedback",
    convert,
    licence="none named (annotations by GPT-4V)",
    size="80k records of 4 answers",
    label_rule="mean of the aspects' ratings; equal = tie; needs a gap (paper: 0.6)",
    needs_image_root=True,
)
