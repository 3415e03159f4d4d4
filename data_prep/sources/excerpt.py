"""What `rejected.jsonl` keeps of a record, so that people can find it in the source."""

import json
from collections.abc import Mapping
from typing import Any

from data_prep.reading.units import Broken
from data_prep.tasks.prompts import valid_text

EXCERPT = 400
"""Characters of a rejected record that are kept."""


def excerpt(record: Any) -> str:
    """The beginning of a record as JSON, for people: bytes as their number, long texts cut."""

    def short(value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return value if len(value) <= 120 else f"{value[:120]}... ({len(value)} characters)"
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, bytes | memoryview):
            return f"{len(value)} bytes"
        if depth < 4 and isinstance(value, Mapping):
            return {str(key)[:60]: short(value[key], depth + 1) for key in list(value)[:20]}
        if depth < 4 and isinstance(value, list | tuple):
            return [short(part, depth + 1) for part in value[:8]]
        return type(value).__name__

    if isinstance(record, Broken):
        return ""
    return valid_text(json.dumps(short(record), ensure_ascii=False))[:EXCERPT]
