"""MLLM-as-a-Judge (Dongping-Chen/MLLM-Judge): answers that people compared, for evaluation.

Pairs have nested answers (`answer1.answer`) and a label A, B or C, where C is a tie. Batches have several `answers` and
their letters from the best to the worst (`CDAB`).
"""

from collections.abc import Iterator
from typing import Any

from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    MOST_RESPONSES,
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
    sequence,
    text,
)
from data_prep.sources.reject import same_responses
from data_prep.tasks.nway import RankedResponses


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, or the ranked answers of a batch; the data set of the image is the `category` in its meta."""
    images = read_images(record, "image_path", "image")
    question = question_text(get(record, "instruction"), "'instruction'")
    meta = kept(record, "id", "original_dataset")
    if "original_dataset" in meta:
        meta["category"] = meta["original_dataset"]
    if "answers" in record:
        answers = tuple(text(answer, "answer") for answer in sequence(record, "answers"))
        if len(set(answers)) == 1 < len(answers):
            raise same_responses("all answers are the same text")
        yield RankedResponses("mllm_judge", images, question, answers, _ranks(_label(record), len(answers)), meta)
        return
    label = _label(record)
    better = "tie" if label == "C" else options.labels.read(get({"human_answer": label}, "human_answer"))
    responses = text(get(record, "answer1"), "answer"), text(get(record, "answer2"), "answer")
    yield make_pair("mllm_judge", images, question, responses, better, meta)


def _label(record: Record) -> Any:
    """The verdict of people; the two releases name it differently."""
    return record.get("human_answer", record.get("human"))


def _ranks(letters: Any, n: int) -> tuple[float, ...]:
    """The rank of each answer, from its letter's place."""
    names = [chr(ord("A") + i) for i in range(n)]
    if not 2 <= n <= MOST_RESPONSES or not isinstance(letters, str) or sorted(letters) != names:
        raise Reject("bad-ranking", f"{str(letters)[:60]!r} does not rank the {n} answers by their letters")
    return tuple(letters.index(name) + 1.0 for name in names)


SOURCE = Source(
    "mllm_judge",
    "Dongping-Chen/MLLM-Judge",
    convert,
    licence="see card",
    size="pair comparison and batch ranking",
    label_rule="human_answer: A, B, or C for a tie; of a batch, the letters from the best to the worst",
    label=lambda record, options: None if "answers" in record or _label(record) == "C" else RawLabel(_label(record)),
    needs_image_root=True,
)
