"""MLLM-as-a-Judge (Dongping-Chen/MLLM-Judge): pairs of answers that people compared, for evaluation.

The answers are nested (`answer1.answer`), and the label is A, B or C, where C is a tie.
"""

from collections.abc import Iterator
from typing import Any

from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Source,
    get,
    kept,
    make_pair,
    question_text,
    read_images,
    text,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    label = _label(record)
    better = "tie" if label == "C" else options.labels.read(get({"human_answer": label}, "human_answer"))
    responses = text(get(record, "answer1"), "answer"), text(get(record, "answer2"), "answer")
    meta = kept(record, "id", "original_dataset")
    yield make_pair(
        "mllm_judge",
        read_images(record, "image_path", "image"),
        question_text(get(record, "instruction"), "'instruction'"),
        responses,
        better,
        {**meta, "category": meta.get("original_dataset")},
    )


def _label(record: Record) -> Any:
    """The verdict of people; the two releases name it differently."""
    return record.get("human_answer", record.get("human"))


SOURCE = Source(
    "mllm_judge",
    "Dongping-Chen/MLLM-Judge",
    convert,
    licence="see card",
    size="pair comparison only",
    label_rule="human_answer: A, B, or C for a tie",
    label=lambda record, options: None if _label(record) == "C" else RawLabel(_label(record)),
    needs_image_root=True,
)
