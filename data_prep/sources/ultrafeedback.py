"""openbmb/UltraFeedback: four completions of an instruction without images, each with an `overall_score`."""

from collections.abc import Iterator

from data_prep.sources.record import (
    MOST_RESPONSES,
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    number,
    sequence,
    text,
)
from data_prep.sources.reject import same_responses
from data_prep.tasks.nway import RankedResponses


def convert(record: Record, options: Options) -> Iterator[Item]:
    """The ranked completions."""
    completions = sequence(record, "completions")
    if not 2 <= len(completions) <= MOST_RESPONSES:
        raise Reject("not-pairwise", f"{len(completions)} completions; two are needed, at most {MOST_RESPONSES}")
    responses = tuple(text(completion, "response") for completion in completions)
    ranks = tuple(-number(get(completion, "overall_score"), "'overall_score'") for completion in completions)
    if len(set(responses)) < 2:
        raise same_responses("all completions are the same text")
    meta = kept(record, "id", "source")
    yield RankedResponses("ultrafeedback", (), text(record, "instruction"), responses, ranks, meta)


SOURCE = Source(
    "ultrafeedback",
    "openbmb/UltraFeedback",
    convert,
    licence="MIT",
    size="64k records of 4 completions without images",
    label_rule="overall_score: higher = better; equal = tie",
)
