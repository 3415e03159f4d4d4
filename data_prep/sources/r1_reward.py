"""yifanzhang114/R1-Reward-RL: judge prompts as a chat in JSON, with the verdict in <answer> tags."""

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
    parsed_json,
    preferred,
    question_text,
    read_image,
    read_images,
)

_ANSWER = re.compile(r"<answer>([^<]{1,40})</answer>")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    chat = parsed_json(get(record, "message"), "'message'")
    images, prompt = read_chat(chat)
    if not images:
        images = read_images(record, "image", "images")
    question, first, second = split_judge_prompt(prompt)
    answer = get(record, "answer")
    if isinstance(answer, list | tuple):
        answer = answer[0] if len(answer) == 1 else None
    if isinstance(answer, str) and (inside := _ANSWER.search(answer)):
        answer = inside[1]
    yield make_pair(
        "r1_reward", images, question_text(question), (first, second), preferred(answer, "'answer'"), kept(record, "id")
    )


def read_chat(chat: Any) -> tuple[tuple[Any, ...], str]:
    """Images and text of the last user turn of a chat.

    Raises:
        Reject: the chat has no such turn or another shape.
    """
    if not isinstance(chat, list):
        raise Reject("wrong-type", f"the chat is a {type(chat).__name__}, not a list of turns")
    users = [
        turn for turn in chat if isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("user", "human")
    ]
    if not users:
        raise Reject("missing-field", "the chat has no user turn")
    content = users[-1].get("content", users[-1].get("value"))
    if isinstance(content, str):
        return (), checked_text(content, "the user turn")
    if not isinstance(content, list):
        raise Reject("wrong-type", "the user turn is neither text nor a list of parts")
    images, texts = [], []
    for part in content:
        kind = get(part, "type")
        if kind == "text":
            texts.append(checked_text(get(part, "text"), "a text part", allow_empty=True))
        elif kind in ("image", "image_url"):
            value = part.get("image", part.get("image_url"))
            images.append(
                read_image(value.get("url") if isinstance(value, dict) and "url" in value else value, "an image part")
            )
        elif kind == "video":
            raise Reject("video", "the record is about a video; only images are converted")
    return tuple(images), checked_text("\n".join(texts), "the user turn")


SOURCE = Source(
    "r1_reward",
    "yifanzhang114/R1-Reward-RL",
    convert,
    licence="see card",
    size="200k pairs",
    label_rule="answer: <answer>1</answer> or <answer>2</answer>",
    needs_image_root=True,
)
