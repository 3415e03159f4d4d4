"""Omni-RRM/Omni-Preference, the part about images: judge prompts with scores and a verdict as JSON in a text."""

from collections.abc import Iterator

from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.labels import RawLabel
from data_prep.sources.r1_reward import judge_chat
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    make_pair,
    parsed_json,
    question_text,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    solution = parsed_json(get(record, "solution"), "'solution'")
    if not isinstance(solution, dict):
        raise Reject("wrong-type", f"'solution' holds a {type(solution).__name__}, not an object")
    images, prompt = judge_chat(get(record, "messages"), record, "'messages'", ("images",))
    question, first, second = split_judge_prompt(prompt)
    better = options.labels.read(get(solution, "better"), "'better'")
    meta = {**kept(record, "id"), **kept(solution, "score_A", "score_B")}
    yield make_pair("omni_preference", images, question_text(question), (first, second), better, meta)


def label(record: Record, options: Options) -> RawLabel | None:
    """The verdict of a record, which is JSON in a text."""
    try:
        solution = parsed_json(record.get("solution"), "'solution'")
    except Reject:
        return None
    return RawLabel(solution.get("better")) if isinstance(solution, dict) else None


SOURCE = Source(
    "omni_preference",
    "Omni-RRM/Omni-Preference",
    convert,
    licence="see card",
    size="image part only",
    label_rule="solution.better: A, B or equal",
    label=label,
    needs_image_root=True,
)
