"""Our own rows as a task of the tool."""

import io
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from recipe.critic_r1.judging.generation import ImagePart, TextPart, messages_from_row


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def row(content: str, *colours: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": content}],
        "images": [{"bytes": png(colour), "path": f"{colour}.png"} for colour in colours],
        "reward_model": {"style": "rule", "ground_truth": "6"},
    }


@pytest.mark.parametrize("content", ["<image>Which digit?", "First <image> then <image>, which is larger?"])
def test_the_prompt_is_that_of_our_own_evaluation(policy_rows: ModuleType, content: str) -> None:
    doc = row(content, *["red", "blue"][: content.count("<image>")])
    (ours,) = messages_from_row(doc["prompt"], doc["images"])
    (theirs,) = policy_rows.to_messages(doc)
    assert len(ours.parts) == len(theirs["content"])
    for mine, part in zip(ours.parts, theirs["content"], strict=True):
        if isinstance(mine, TextPart):
            assert part == {"type": "text", "text": mine.text}
        else:
            assert isinstance(mine, ImagePart)
            assert part["url"].getpixel((0, 0)) == Image.open(io.BytesIO(mine.data)).getpixel((0, 0))


def test_right_is_the_label_to_the_letter(policy_rows: ModuleType) -> None:
    doc = row("<image>Which digit?", "red")
    assert [policy_rows.score(doc, [answer])["accuracy"] for answer in ("6", "7", "", "6 or 7")] == [1, 0, 0, 0]
