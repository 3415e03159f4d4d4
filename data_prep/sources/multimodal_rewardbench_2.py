"""Multimodal RewardBench 2 (facebookresearch/MMRB2) as re-published in columns, for evaluation.

Pairs whose responses hold images (text-to-image, edit, interleaved) are rejected by name: a response is text here.
"""

from collections.abc import Iterator

from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    make_pair,
    question_text,
    read_images,
    text,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with the set that its prompt is from as `category` in its meta."""
    if any(record.get(f"response_{side}_images") for side in "ab"):
        remedy = "Only the pairs whose responses are text are converted."
        raise Reject("response-image", "a response holds images", remedy)
    images = read_images(record, "prompt_images") if record.get("prompt_images") else ()
    found = kept(record, "pair_id", "prompt_source")
    yield make_pair(
        "multimodal_rewardbench_2",
        images,
        question_text(get(record, "prompt_text"), "'prompt_text'"),
        (text(record, "response_a_text"), text(record, "response_b_text")),
        options.labels.read(get(record, "chosen"), "'chosen'"),
        {"id": found.get("pair_id"), "category": found.get("prompt_source")},
    )


SOURCE = Source(
    "multimodal_rewardbench_2",
    "facebookresearch/MMRB2",
    convert,
    licence="see card",
    size="4,000 pairs; those with text responses are read",
    label_rule="chosen: A or B",
    label=lambda record, options: RawLabel(record.get("chosen"), ("response_a_text", "response_b_text")),
)
