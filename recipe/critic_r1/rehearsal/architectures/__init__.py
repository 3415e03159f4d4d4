"""Sizes of published models, as ``config.json`` files cut down to the architecture.

The memory estimate reads them where a run's model is neither a folder nor in the Hub's cache, and a rehearsal builds a
model from them. Nothing heavy is imported here.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    # Qwen2.5-VL-7B-Instruct, trained further.
    "russwang/ThinkLite-VL-7B": "qwen2_5_vl_7b",
    # MiMo-7B with Qwen2.5-VL's vision tower, as the MiMo-VL report says; not compared with the published files.
    "XiaomiMiMo/MiMo-VL-7B-SFT-2508": "mimo_vl_7b",
    "XiaomiMiMo/MiMo-VL-7B-RL-2508": "mimo_vl_7b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl_8b",
}
"""Architecture of each model on the Hub that the project knows the sizes of."""


def shipped() -> list[str]:
    """Names of the architectures that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def architecture(name: str) -> dict[str, Any]:
    """The ``config.json`` of a shipped architecture.

    Raises:
        ValueError: there is none of this name; lists those that ship.
    """
    path = FOLDER / f"{name}.json"
    if name not in shipped():
        raise ValueError(f"{name} is not an architecture that ships: {', '.join(shipped())}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def published(model: str) -> dict[str, Any] | None:
    """The ``config.json`` of a model on the Hub; None when its sizes are not known here."""
    name = PUBLISHED.get(model)
    return None if name is None else architecture(name)
