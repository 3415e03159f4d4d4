"""yifanzhang114/R1-Reward-RL: judge prompts as a chat in JSON, with the verdict in <answer> tags."""

from collections.abc import Iterator
from typing import Any

from data_prep.sources.conversations import images_of, read_turns
from data_prep.sources.judge_prompt import split_judge_prompt
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
    parsed_json,
    question_text,
    read_images,
)
from data_prep.tasks.pairwise import Image
from data_prep.tasks.prompts import without_markers


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    images, prompt = judge_chat(get(record, "message"), record, "'message'", ("image", "images"))
    question, first, second = split_judge_prompt(prompt)
    better = options.labels.read(_answer(get(record, "answer")), "'answer'")
    yield make_pair("r1_reward", images, question_text(question), (first, second), better, kept(record, "id"))


def _answer(answer: Any) -> Any:
    """The only verdict of the list."""
    return answer[0] if isinstance(answer, list | tuple) and len(answer) == 1 else answer


def judge_chat(chat: Any, record: Record, what: str, image_keys: tuple[str, ...]) -> tuple[tuple[Image, ...], str]:
    """Images and judge prompt of a chat whose only user turn is the prompt.

    Turns of the system and the assistant are the judge's instructions and its verdict, which our own replace.

    Raises:
        Reject: the chat has no user turn, or more than one.
    """
    turns = read_turns(parsed_json(chat, what), what)
    users = [turn for turn in turns if turn.speaker == "User"]
    if len(users) != 1 or any(turn.speaker.startswith("Tool") for turn in turns):
        raise Reject("several-turns", f"{what} has {len(users)} user turns of {len(turns)}; a judge prompt is one")
    given = read_images(record, *image_keys) if any(record.get(key) for key in image_keys) else ()
    images = images_of(users, given)
    return images or read_images(record, *image_keys), without_markers(users[0].text)


SOURCE = Source(
    "r1_reward",
    "yifanzhang114/R1-Reward-RL",
    convert,
    licence="see card",
    size="200k pairs",
    label_rule="answer: <answer>1</answer> or <answer>2</answer>",
    label=lambda record, options: RawLabel(_answer(record.get("answer"))),
    label_base=1,
    needs_image_root=True,
)
