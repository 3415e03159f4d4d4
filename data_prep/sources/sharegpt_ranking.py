"""LLaMA-Factory's sharegpt form of preference data (llamafactory/RLHF-V, Zhihui/VLFeedback).

The conversation so far is in `conversations`, the two candidates for the next turn in `chosen` and `rejected`.
`generic` reads the same form.
"""

from collections.abc import Iterator
from dataclasses import replace

from data_prep.sources import generic
from data_prep.sources.record import Item, Options, Record, Source, get


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    get(record, "conversations")
    for item in generic.convert({k: v for k, v in record.items() if k not in generic.ALIASES["question"]}, options):
        yield replace(item, source="sharegpt_ranking") if not isinstance(item, Exception) else item


SOURCE = Source(
    "sharegpt_ranking",
    "LLaMA-Factory sharegpt ranking",
    convert,
    licence="that of the set",
    size="any",
    label_rule="chosen",
)
