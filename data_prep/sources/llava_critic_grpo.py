"""lmms-lab/LLaVA-Critic-GRPO-dataset: the paper's own training set, 40.2k rows.

A row holds the finished judge prompt in `question` and the verdict in `answer`. The prompt is taken apart, so that our
template, order balance and neutralising apply as to any other set.
"""

from collections.abc import Iterator

from data_prep.sources.judge_prompt import split_judge_prompt
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
    question, first, second = split_judge_prompt(text(record, "question"))
    yield make_pair(
        "llava_critic_grpo",
        read_images(record, "image", "images"),
        question_text(question),
        (first, second),
        options.labels.read(get(record, "answer"), "'answer'"),
        kept(record, "id", "source"),
    )


SOURCE = Source(
    "llava_critic_grpo",
    "lmms-lab/LLaVA-Critic-GRPO-dataset",
    convert,
    licence="see card",
    size="40.2k pairs",
    label_rule="answer",
    label=lambda record, options: RawLabel(record.get("answer")),
)
