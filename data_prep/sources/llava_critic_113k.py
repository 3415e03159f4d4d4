"""lmms-lab/llava-critic-113k: GPT-4o judgements, pairwise (40,154 rows) and pointwise.

Only question, responses and label are kept; the judge's reasons are dropped, as in the paper. The pointwise half mixes
several forms: a `Final Score` becomes a score task, rows that compare two answers become pairs, others are rejected.
"""

import re
from collections.abc import Iterator
from typing import Any

from data_prep.sources.conversations import images_of, read_turns
from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.labels import Labels
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
    question_text,
    read_images,
)
from data_prep.tasks.pointwise import ScoredResponse

_BETTER = re.compile(r"the better response(?: is)?: ?\[?([\w ]{1,30})\]?", re.IGNORECASE)
_TIE = re.compile(r"two responses are equally good", re.IGNORECASE)
_ARENA = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
_TWO_SCORES = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})?)[ \t]+(\d{1,3}(?:\.\d{1,3})?)[ \t]*(?:\n|$)")
_FINAL = re.compile(r"Final Score: ?\[?(-?\d{1,4}(?:\.\d{1,4})?)")
_CAPTION = re.compile(r"Text Caption:")
_RUBRIC = re.compile(r"\nFrom 0 to 100")
_SAID = Labels(base=1)
"""The judge is told to answer first or second, 1 or 2, A or B."""


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, or one scored response."""
    turns = read_turns(get(record, "conversations"), "'conversations'")
    if [turn.speaker for turn in turns] != ["User", "Assistant"]:
        raise Reject("several-turns", "the conversation is not one question to the judge and its verdict")
    human, verdict = turns[0].text, turns[1].text
    images = images_of(turns, read_images(record, "image", "images"))
    meta = kept(record, "id", "source")
    if (final := set(_FINAL.findall(verdict))) and _CAPTION.search(human):
        if len(final) > 1:
            raise Reject("bad-rating", f"the judge's text has {len(final)} different final scores")
        yield _scored(human, number(final.pop(), "the score"), images, meta)
        return
    question, first, second = split_judge_prompt(human)
    yield make_pair("llava_critic_113k", images, question_text(question), (first, second), _label(verdict), meta)


def _label(verdict: str) -> Any:
    """0, 1 or `tie` from the judge's text. All verdicts in it must agree."""
    said = {_SAID.read(match) for match in _BETTER.findall(verdict)}
    if _TIE.search(verdict):
        said.add("tie")
    if not said:
        said = {_SAID.read(match) for match in _ARENA.findall(verdict)}
    if not said and (scores := _TWO_SCORES.match(verdict)):
        one, two = float(scores[1]), float(scores[2])
        said = {"tie" if one == two else int(two > one)}
    if len(said) != 1:
        raise Reject("unknown-label", f"{len(said)} verdicts in the judge's text", "It is another kind of task.")
    return said.pop()


def _scored(human: str, score: float, images: tuple[Any, ...], meta: dict[str, Any]) -> ScoredResponse:
    if not 0 <= score <= 100:
        raise Reject("bad-rating", f"the score {score} is outside 0 to 100")
    captions, rubrics = list(_CAPTION.finditer(human)), list(_RUBRIC.finditer(human))
    if len(captions) != 1 or len(rubrics) != 1 or captions[0].end() > rubrics[0].start():
        raise Reject("ambiguous-prompt", "it is not certain where the caption in the judge prompt begins and ends")
    response = checked_text(human[captions[0].end() : rubrics[0].start()], "the caption")
    return ScoredResponse("llava_critic_113k", images, "Describe this image in detail.", response, score, meta=meta)


SOURCE = Source(
    "llava_critic_113k",
    "lmms-lab/llava-critic-113k",
    convert,
    licence="see card",
    size="40,154 pairwise; 73k pointwise",
    label_rule="'The better response: [..]' in the gpt turn; 'Two responses are equally good.' = tie; 'Final Score'",
)
