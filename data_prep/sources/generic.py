"""Any set of one's own: columns mapped by name, two responses or N ranked ones.

Fields (each may be mapped to another column): `question`, `image`; then either `chosen` and `rejected`, or
`response_1`, `response_2` and `label`, or `responses` with `rankings` (1 = best, ties allowed) or with `scores` (higher
= better).
Without a mapping a few usual names are tried.
"""

from collections.abc import Iterator
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
    preferred,
    question_text,
    read_images,
    sequence,
    text,
)
from data_prep.sources.reject import Reject, same_responses
from data_prep.tasks.nway import RankedResponses

ALIASES: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "query", "instruction"),
    "image": ("image", "images", "image_path", "img_path"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "response_1": ("response_1", "response_a", "output_1"),
    "response_2": ("response_2", "response_b", "output_2"),
    "label": ("label", "preference", "preferred", "answer", "better"),
    "responses": ("responses", "response", "completions"),
    "rankings": ("rankings", "ranking", "ranks"),
    "scores": ("scores", "ratings"),
    "id": ("id", "idx", "ID"),
}
"""Our field -> names that are tried in this order when the field is not mapped."""


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, or the ranked responses."""
    try:
        yield from _items(_renamed(record, options))
    except Reject as problem:
        if problem.reason != "missing-field":
            raise
        have = ", ".join(sorted(map(str, record))[:20])
        remedy = f"The record has: {have}. Name its columns: --map question=COLUMN, and so on."
        raise Reject(problem.reason, problem.detail, remedy) from None


def _items(fields: dict[str, Any]) -> Iterator[Item]:
    images = read_images(fields, "image")
    question = question_text(get(fields, "question"))
    meta = kept(fields, "id")
    if fields.get("responses") is not None:
        yield _ranked(fields, images, question, meta)
    elif fields.get("response_1") is not None or fields.get("response_2") is not None:
        responses = (text(fields, "response_1"), text(fields, "response_2"))
        yield make_pair("generic", images, question, responses, preferred(get(fields, "label")), meta)
    else:
        yield make_pair("generic", images, question, (text(fields, "chosen"), text(fields, "rejected")), 0, meta)


def _renamed(record: Record, options: Options) -> dict[str, Any]:
    if not hasattr(record, "get"):
        raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object")
    fields: dict[str, Any] = {"video": record.get("video")}
    for field, names in ALIASES.items():
        if field in options.columns:
            names = (options.columns[field],)
        fields[field] = next((record[n] for n in names if record.get(n) is not None), None)
    return fields


def _ranked(fields: dict[str, Any], images: Any, question: str, meta: dict[str, Any]) -> RankedResponses:
    responses = tuple(checked_text(r, "a response") for r in sequence(fields, "responses"))
    by_rank = fields.get("rankings") is not None
    ranks = tuple(number(r, "a rank") for r in sequence(fields, "rankings" if by_rank else "scores"))
    if not by_rank:
        ranks = tuple(-r for r in ranks)
    if len(ranks) != len(responses) or not 2 <= len(responses) <= MOST_RESPONSES:
        raise Reject("bad-ranking", f"{len(responses)} responses with {len(ranks)} ranks")
    if len({r.strip() for r in responses}) < 2:
        raise same_responses("all responses are the same text")
    return RankedResponses("generic", images, question, responses, ranks, meta)


SOURCE = Source(
    "generic",
    "any set of your own",
    convert,
    licence="yours to state",
    size="any",
    label_rule="chosen / label / rankings / scores; map columns with --map",
)
