"""The local task `policy_rows`: policy rows of a Parquet file from `prepare`, as lmms-eval asks for them.

Right is an answer that is the label letter for letter, as in the demo's own evaluation. Copied beside the task's yaml,
and run in the environment of lmms-eval.
"""

import os
import sys
from typing import Any

from PIL import Image

MARKER = "<image>"

ROOT_VARIABLE = "CRITIC_R1_ROOT"
"""Folder of this project, of which the environment of lmms-eval has nothing installed."""


def open_image(image: Any) -> Image.Image:
    """An image as `datasets` gives it, decoded or as `{bytes, path}`, opened by the rule of training."""
    if not isinstance(image, dict):
        decoded: Image.Image = image.convert("RGB")
        return decoded
    if (root := os.environ.get(ROOT_VARIABLE)) and root not in sys.path:
        sys.path.append(root)
    from data_prep.reading.images import open_image as opened

    return opened(image["bytes"])


def to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    return [open_image(image) for image in doc["images"]]


def to_text(doc: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in doc["prompt"])


def to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The row's prompt with each marker replaced by its image, in the order of reading."""
    images = iter(to_visual(doc))
    messages = []
    for message in doc["prompt"]:
        parts: list[dict[str, Any]] = []
        for number, text in enumerate(message["content"].split(MARKER)):
            if number:
                parts.append({"type": "image", "url": next(images)})
            if text:
                parts.append({"type": "text", "text": text})
        messages.append({"role": message["role"], "content": parts})
    return messages


def to_target(doc: dict[str, Any]) -> str:
    label: str = doc["reward_model"]["ground_truth"]
    return label


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"accuracy": float(results[0] == to_target(doc))}
