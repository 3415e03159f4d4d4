"""What the values of a label column mean, decided from all of them together.

A `1` is the first response where the labels are 1 and 2, and the second where they are 0 and 1, so one row cannot
tell. Before a conversion, `Survey` reads the label of every record; `Survey.labels` then fixes the meaning for the
whole set, or refuses when the values allow more than one.
"""

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn

from data_prep.reading.inputs import InputError
from data_prep.sources.reject import Reject, shown_value

Meaning = Literal[0, 1, "tie", "skip"]
"""The place of the better response, a tie, or a row to leave out."""

MEANINGS: Mapping[str, Meaning] = {"first": 0, "second": 1, "tie": "tie", "skip": "skip"}
"""What `--label-values VALUE=MEANING` may say."""

MOST_VALUES = 50
"""Distinct values that a survey remembers for its message; a column with more is hardly a label."""

_NOUN = "(?:response|output|answer|model|assistant|option|candidate|choice|completion|solution|caption)s?"
_SIDE = re.compile(
    rf"(?:(?:the )?(?:{_NOUN} ?)?(a|b|one|two|\d)"
    rf"|(?:the )?(first|second|1st|2nd|left|right)(?: {_NOUN}| one|vote)?)(?: (?:is )?better| wins)?"
)
_SIDES = {"a": 0, "b": 1, "one": 0, "two": 1, "first": 0, "second": 1, "1st": 0, "2nd": 1, "left": 0, "right": 1}
_COMPARED = re.compile(r"([ab])(>>?|=|<<?)([ab])")
_TIES = frozenset(
    {
        "tie",
        "ties",
        "tied",
        "draw",
        "equal",
        "both",
        "same",
        "equally good",
        "two responses are equally good",
        "both good",
    }
    | {"bothbad", "both bad", "tie (bothbad)", "tie (both bad)", "tie bothbad", "tie both bad"}
    | {"tievote", "bothbad vote"}
    | {"bothgood", "tie (bothgood)", "no preference"}
)
_WRAPPINGS = (("\\boxed{", "}"), ("[", "]"), ("(", ")"), ("'", "'"), ('"', '"'), ("<answer>", "</answer>"))


def label_key(value: Any) -> str:
    """A label in one spelling: `[[A]]`, ` a ` and `A.` are `a`, `1.0` and `"1"` are `1`, `True` is `true`.

    Raises:
        Reject: `unknown-label`; it is neither text nor a finite number.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise unknown_label(value)
    text = value[:100].strip().casefold()
    stripping = True
    while stripping:
        stripping = False
        for start, end in _WRAPPINGS:
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end):
                text, stripping = text[len(start) : -len(end)].strip(), True
    if number := re.fullmatch(r"([+-]?\d+)(?:\.0+)?", text):
        return number[1]
    return re.sub(r"(?!^)[\s_-]+", " ", text).rstrip(".:! ")


def unknown_label(value: Any, what: str = "the label") -> Reject:
    """The reject of a row whose label says nothing."""
    remedy = "Known are 1/2, 0/1, A/B, first/second, tie and the like; --label-values VALUE=first names others."
    return Reject("unknown-label", f"{what} is {shown_value(value)}", remedy)


_WORSE = frozenset(
    {"bad", "dispreferred", "hallucinated", "inferior", "lose", "loser", "loses", "losing", "lost", "negative", "not"}
    | {"reject", "rejected", "worse", "worst", "wrong"}
)


@lru_cache(maxsize=256)
def _words(column: str) -> set[str]:
    """The words in a column's name, of a path in its last part: those of `meta.isBetter_a` are is, better, a."""
    last = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", column.rpartition(".")[2])
    return set(re.findall(r"[a-z]+|[0-9]+", last.casefold()))


class RawLabel(NamedTuple):
    """The label column of one record."""

    value: Any
    names: tuple[str, str] | None = None
    """Names of the columns of the first and the second response; the label may be one of them."""
    column: str = ""
    """Name of the label's own column, where the user or the data chose it."""

    @property
    def names_worse(self) -> bool:
        """Whether the column seems to name the worse response: `loser`, `rejected_model`."""
        return not _WORSE.isdisjoint(_words(self.column))

    @property
    def names_one_side(self) -> bool:
        """Whether the column seems to say of one response whether it is better: `winner_model_a`, `first_is_better`."""
        words = _words(self.column)
        sides = [{"a"}, {"first"}, {"left"}], [{"b"}, {"second"}, {"right"}]
        for place, name in enumerate(self.names or ()):
            sides[place].append(_words(name))
        of_first, of_second = (any(side and side <= words for side in names) for names in sides)
        return of_first != of_second


@dataclass(frozen=True)
class Labels:
    """The meaning of the values of one label column."""

    given: Mapping[str, Meaning] = field(default_factory=dict)
    """Meanings that the user or the column names fixed, by `label_key`."""
    base: int | None = None
    """The number that names the first response, 0 or 1; None where numbers have no certain meaning."""

    def read(self, value: Any, what: str = "the label") -> Any:
        """0, 1 or `tie`.

        Raises:
            Reject: `unknown-label`, or `skipped-label` for a value that the user chose to skip.
        """
        key = label_key(value)
        meaning = self.given.get(key)
        if meaning is None:
            meaning = _word_meaning(key)
        if meaning is None and self.base is not None and (number := _number(key)) is not None:
            meaning = {self.base: 0, self.base + 1: 1}.get(number)  # type: ignore[call-overload]
        if meaning is None:
            raise unknown_label(value, what)
        if meaning == "skip":
            raise Reject("skipped-label", f"{what} is {shown_value(value)}", "--label-values says to skip it.")
        return meaning


def _word_meaning(key: str) -> Meaning | None:
    """What a label says in words; None for numbers, which need the whole column."""
    if key in _TIES:
        return "tie"
    if compared := _COMPARED.fullmatch(key.replace(" ", "")):
        left, sign, right = compared.groups()
        if left == right:
            return None
        return "tie" if sign == "=" else _SIDES[left if ">" in sign else right]  # type: ignore[return-value]
    if side := _SIDE.fullmatch(key):
        return _SIDES.get(side[1] or side[2])  # type: ignore[return-value]
    return None


def _number(key: str) -> float | None:
    """The number in a label such as `1`, `response 2` or `output1`."""
    side = _SIDE.fullmatch(key)
    try:
        number = float(side[1] if side and side[1] else key)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_label_values(pairs: Mapping[str, str]) -> dict[str, Meaning]:
    """The meanings that the user gave, by `label_key`.

    Raises:
        ValueError: a meaning is not one of `MEANINGS`.
    """
    found: dict[str, Meaning] = {}
    for value, meaning in pairs.items():
        if meaning not in MEANINGS:
            raise ValueError(f"--label-values {value}={meaning}: the meaning is one of {', '.join(MEANINGS)}")
        found[label_key(value)] = MEANINGS[meaning]
    return found


class Survey:
    """Collects the values of a label column and decides what they mean.

    Args:
        given: meanings that the user fixed (`parse_label_values`).
        base: the number of the first response where the set's card states it.
    """

    def __init__(self, given: Mapping[str, Meaning], base: int | None = None) -> None:
        self._stated = frozenset(given)
        self._given = dict(given)
        self._base = base
        self._names: set[tuple[str, str] | None] = set()
        self._counts: Counter[str] = Counter()
        self._numbers: set[float] = set()
        self._misleading = ""
        """A column whose name says that its values do not simply name the better response."""

    def add(self, label: RawLabel) -> None:
        """Take one label into account; a value that cannot be a label is left to the row's own reject."""
        if label.names not in self._names and len(self._names) < MOST_VALUES:
            self._names.add(label.names)
            for place, name in enumerate(label.names or ()):
                self._given.setdefault(label_key(name), place)  # type: ignore[arg-type]
        try:
            key = label_key(label.value)
        except Reject:
            return
        if key in self._counts or len(self._counts) < MOST_VALUES:
            self._counts[key] += 1
        if key in self._stated:
            return
        number = 0.5 if key in ("true", "false") else _number(key)
        if (label.names_worse and key not in _TIES) or (number in (0, 1) and label.names_one_side):
            self._misleading = label.column
        if number is not None and key not in self._given:
            # Only what matters is kept: 0, 1, 2, and whether there are others that make these uncertain.
            self._numbers.add(number if number in (0, 1, 2) else 3 if number > 5 and number == int(number) else -1)

    def labels(self) -> Labels:
        """The meaning of the column.

        Raises:
            InputError: the values allow more than one meaning; the message lists them and the option that decides.
        """
        base, numbers = self._base, self._numbers
        if self._misleading or (base == 1 and 0 in numbers and 2 not in numbers):
            self._refuse()
        if base is None and numbers - {3}:  # a few larger numbers cost their rows only
            if numbers >= {0, 2} or -1 in numbers:
                self._refuse()
            if 2 in numbers:
                base = 1
            elif numbers >= {0, 1}:
                base = 0
            else:
                base = self._base_of_names()
                if base is None or not numbers & {base, base + 1}:
                    self._refuse()
        return Labels(self._given, base)

    def _base_of_names(self) -> int | None:
        """0 or 1 where the columns of the responses are themselves numbered from 0 or 1."""
        ends = {(names[0][-1:], names[1][-1:]) if names else None for names in self._names}
        return {("0", "1"): 0, ("1", "2"): 1}.get(next(iter(ends)) or ("", "")) if len(ends) == 1 else None

    def _refuse(self) -> NoReturn:
        seen = ", ".join(f"{value} ({count} times)" for value, count in sorted(self._counts.items())[:12])
        options = " ".join(f"--label-values {shlex.quote(value)}=MEANING" for value in sorted(self._counts)[:4])
        why = f": the column '{self._misleading[:80]}' may not name the better response" if self._misleading else ""
        raise InputError(
            f"the labels can be read in more than one way{why}; seen: {seen}. Say what each value means: {options},"
            f" where MEANING is {', '.join(MEANINGS)}"
        )
