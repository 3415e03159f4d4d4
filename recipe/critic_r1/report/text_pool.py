"""The texts of a page: each distinct text once, with limits on the length of one and of all.

Both orders of a pair, and all judges of it, share question and responses. Thousands of responses that ran into the
token limit would make a file that no browser opens, so long texts are shown without their middle: the verdict is at the
end.
"""

from dataclasses import dataclass, field

LONGEST_TEXT = 20_000
"""Characters of one text on the page."""

SHORTEST_LIMIT = 500
"""Characters of a text that are always kept."""

PAGE_BUDGET = 32_000_000
"""Characters of all texts together."""


def shortened(text: str, limit: int) -> str:
    """The text, or three quarters of the limit from its start and one from its end, with a note between them."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    head = limit - tail
    return f"{text[:head]}\n[… {len(text) - limit:,} characters are not on this page …]\n{text[len(text) - tail :]}"


@dataclass
class Texts:
    """Numbers distinct texts in the order in which they come."""

    _places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """The number of a text in `listed`."""
        return self._places.setdefault(text, len(self._places))

    def listed(self) -> tuple[list[str], int]:
        """All texts, and how many of them were shortened."""
        limit = LONGEST_TEXT
        while limit > SHORTEST_LIMIT and sum(min(len(text), limit) for text in self._places) > PAGE_BUDGET:
            limit //= 2
        return [shortened(text, limit) for text in self._places], sum(len(text) > limit for text in self._places)
