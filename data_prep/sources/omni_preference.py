"""Omni-RRM/Omni-Preference, the part about images: judge prompts with scores and a verdict as JSON in a text."""

from collections.abc import Iterator

from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.r1_reward import read_chat
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
    preferred,
    question_text,
    read_images,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    solution = parsed_json(get(record, "solution"), "'solution'")
    if not isinstance(solution, dict):
        raise Reject("wrong-type", f"'solution' holds a {type(solution).__name__}, not an object")
    images, prompt = read_chat(parsed_json(get(record, "messages"), "'messages'"))
    question, first, second = split_judge_prompt(prompt)
    meta = {**kept(record, "id"), **kept(solution, "score_A", "score_B")}
    yield make_pair(
        "omni_preference",
        read_images(record, "images") if record.get("images") else images or read_images(record, "images"),
        question_text(question),
        (first, second),
        preferred(get(solution, "better"), "'better'"),
        meta,
    )


SOURCE = Source(
    "omni_preference",
    "Omni-RRM/Omni-Preference",
    convert,
    licence="see card",
    size="image part only",
    label_rule="solution.better: A, B or equal",
    needs_image_root=True,
)
