"""lmms-lab/llava-critic-113k: GPT-4o judgements, pairwise (40,154 rows) and pointwise.

Only question, responses and label are kept; the judge's reasons are dropped, as in the paper. The pointwise half mixes
several forms: a `Final Score` becomes a score task, rows that compare two answers become pairs, others are rejected.
"""

import re
from collections.abc import Iterator
from typing import Any

from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
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
)
from data_prep.tasks.pointwise import ScoredResponse

_BETTER = re.compile(r"the better response(?: is)?: ?\[?([\w ]{1,30})\]?", re.IGNORECASE)
_TIE = re.compile(r"two responses are equally good", re.IGNORECASE)
_ARENA = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
_TWO_SCORES = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})?)[ \t]+(\d{1,3}(?:\.\d{1,3})?)[ \t]*(?:\n|$)")
_FINAL = re.compile(r"Final Score: ?\[?(-?\d{1,4}(?:\.\d{1,4})?)")
_CAPTION = re.compile(r"Text Caption:")
_RUBRIC = re.compile(r"\nFrom 0 to 100")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, or one scored response."""
    turns: dict[str, str] = {}
    for turn in sequence(record, "conversations"):
        speaker = get(turn, "from")
        turns.setdefault(
            "gpt" if speaker in ("gpt", "assistant") else "human", checked_text(get(turn, "value"), "a turn")
        )
    if len(turns) < 2:
        raise Reject("missing-field", "the conversation lacks a human or a gpt turn")
    human, verdict = turns["human"], turns["gpt"]
    images = read_images(record, "image", "images")
    meta = kept(record, "id", "source")
    final = _FINAL.findall(verdict)
    if final and (caption := _CAPTION.search(human)):
        yield _scored(human, caption.end(), number(final[-1], "the score"), images, meta)
        return
    question, first, second = split_judge_prompt(human)
    yield make_pair("llava_critic_113k", images, question_text(question), (first, second), _label(verdict), meta)


def _label(verdict: str) -> Any:
    """0, 1 or `tie` from the judge's text. Several statements of a verdict must agree."""
    said: set[Any] = {preferred(m) for m in _BETTER.findall(verdict)}
    if not said:
        if _TIE.search(verdict):
            return "tie"
        if arena := _ARENA.findall(verdict):
            return {"A": 0, "B": 1}[arena[-1][0]] if "=" not in arena[-1] else "tie"
        if scores := _TWO_SCORES.match(verdict):
            one, two = float(scores[1]), float(scores[2])
            return "tie" if one == two else int(two > one)
    if len(said) != 1:
        raise Reject("unknown-label", f"{len(said)} verdicts in the judge's text", "A row of another kind of task.")
    return said.pop()


def _scored(human: str, start: int, score: float, images: tuple[Any, ...], meta: dict[str, Any]) -> ScoredResponse:
    if not 0 <= score <= 100:
        raise Reject("bad-rating", f"the score {score} is outside 0 to 100")
    rubric = _RUBRIC.search(human, start)
    response = checked_text(human[start : rubric.start() if rubric else len(human)], "the caption")
    return ScoredResponse("llava_critic_113k", images, "Describe this image in detail.", response, score, meta=meta)


SOURCE = Source(
    "llava_critic_113k",
    "lmms-lab/llava-critic-113k",
    convert,
    licence="see card",
    size="40,154 pairwise; 73k pointwise",
    label_rule="'The better response: [..]' in the gpt turn; 'Two responses are equally good.' = tie; 'Final Score'",
)
