"""The texts of a page: each distinct one once, none too long, all together bounded.

Both orders of a pair hold the same question and responses, and two judges of one pair share all of them. A response
that rambled into the token limit, thousands of times over, must not make a file that no browser opens: a long text
loses its middle, since its start says what it is and its end holds the verdict.
"""

from dataclasses import dataclass, field

LONGEST_TEXT = 20_000
"""Characters of one text on the page."""

SHORTEST_LIMIT = 500
"""Characters that a text may keep whatever the others are."""

PAGE_BUDGET = 32_000_000
"""Characters of all texts together."""


def shortened(text: str, limit: int) -> str:
    """The text, or three parts of its start and one of its end with a word between them on what was left out."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    head = limit - tail
    return f"{text[:head]}\n[… {len(text) - limit:,} characters are not on this page …]\n{text[len(text) - tail :]}"


@dataclass
class Texts:
    """Numbers texts in the order in which they come."""

    _places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """The number of a text in `listed`."""
        return self._places.setdefault(text, len(self._places))

    def listed(self) -> tuple[list[str], int]:
        """All texts, and how many of them had to be shortened."""
        limit = LONGEST_TEXT
        while limit > SHORTEST_LIMIT and sum(min(len(text), limit) for text in self._places) > PAGE_BUDGET:
            limit //= 2
        return (
            [shortened(text, limit) for text in self._places],
            sum(len(text) > limit for text in self._places),
        )
