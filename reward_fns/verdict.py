"""From the text of a response to a verdict.

A reward pays for what this file reads, so it is the place where a policy under training looks for holes. Two rules
keep it simple to reason about. First, structure before meaning: `find_box` decides which box counts, from the think
tags and the braces alone; `read_choice` decides what its content says. Second, never guess in favour of the model:
what is ambiguous (two different boxes, a verdict inside the thoughts, a block that never closes) is no verdict, and
carries the reason why.

The grammar of a well-formed response:

    response = blank "<think>" thoughts "</think>" prose box prose
    thoughts = text, not blank, without think tags; a box quoted in it is ignored
    prose    = text without think tags and without a box
    box      = "\\boxed{" choice "}"        the only box outside the thoughts

Every step is a forward scan that never goes back, with fixed strings or character classes, so the time is linear in
the length of the text whatever the text is.

This file imports the standard library only and needs no sibling, so it can be copied on its own.
"""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Policy = Literal["strict", "lenient"]

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
BOX_OPEN = "\\boxed{"

PAIR_CHOICES = ("1", "2", "tie")
"""What a pairwise judge may answer: the first response, the second, or neither is better."""

MAX_VERDICT_CHARS = 64
"""A box with more characters than this is not a verdict; it is not looked into any further."""


class Reason(StrEnum):
    """Why a response was read the way it was. Metrics, logs and reports count these."""

    OK = "ok"
    """Well-formed."""

    # A choice can be read, but the form is not the one asked for.
    NO_THINK = "no_think"
    EMPTY_THINK = "empty_think"
    THINK_NOT_OPENED = "think_not_opened"
    TEXT_BEFORE_THINK = "text_before_think"
    EXTRA_THINK = "extra_think"
    REPEATED_BOX = "repeated_box"
    LENIENT = "lenient"
    """Only the lenient policy found the choice."""

    # No choice.
    NOT_TEXT = "not_text"
    EMPTY = "empty"
    UNCLOSED_THINK = "unclosed_think"
    UNCLOSED_BOX = "unclosed_box"
    BOX_IN_THINK = "box_in_think"
    BOX_BEFORE_THINK = "box_before_think"
    NO_BOX = "no_box"
    EMPTY_BOX = "empty_box"
    CONFLICTING_BOXES = "conflicting_boxes"
    NOT_A_CHOICE = "not_a_choice"

    # Not the model's fault.
    BAD_LABEL = "bad_label"
    """The ground truth is malformed. Never seen in a run whose data passed `prepare` and `preflight`."""

    NO_ROUTE = "no_route"
    """mixed.py knows no reward for the row's data_source."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box that counts, before its content is given a meaning."""

    content: str | None
    """What stands between the braces, stripped; None when no box counts."""

    well_formed: bool
    """True when the structure follows the grammar to the letter."""

    reason: Reason
    """OK, or the first fault in the order of the checks."""

    thought_chars: int
    """Length of the thoughts in characters (all blocks together), 0 without a block."""

    answer_start: int
    """Where the text behind the last block begins (index into the text)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response says, and how well it says it."""

    choice: str | None
    """One of the allowed choices, or None."""

    well_formed: bool
    """True when the whole response follows the grammar. Implies a choice."""

    reason: Reason
    """OK exactly when well_formed."""

    raw: str = ""
    """The content of the box that counted, at most MAX_VERDICT_CHARS characters; "" when none did."""

    thought_chars: int = 0
    """Length of the thoughts in characters."""


# Braces that group. An escaped character is matched first, so that \{ and \} do not count.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")


def closing_brace(text: str, start: int, end: int | None = None) -> int:
    """Index of the brace that closes a group whose content begins at `start`, or -1 when it stays open up to `end`.

    >>> closing_brace("{a{b}c} d", 1)
    6
    """
    depth = 1
    for match in _BRACE.finditer(text, start, len(text) if end is None else end):
        token = match.group()
        if token == "}":
            depth -= 1
            if not depth:
                return match.start()
        elif token == "{":
            depth += 1
    return -1


def find_box(text: object, *, prefilled: bool = False) -> Box:
    """Decide which box of a response counts, from its think tags and braces alone.

    The first `</think>` ends a block, as it does for serving engines: blocks do not nest. Boxes inside a block are
    ignored. The boxes outside must agree, and one of them must stand behind the last block.

    Args:
        text: what the model wrote. Anything that is not a string is read as NOT_TEXT.
        prefilled: the chat template already wrote `<think>`, so the response begins inside the thoughts.

    Never raises. Linear time.

    >>> find_box("<think>The second one invents a dog.</think> So: \\\\boxed{1}")
    Box(content='1', well_formed=True, reason=<Reason.OK: 'ok'>, thought_chars=29, answer_start=44)
    """
    if not isinstance(text, str):
        return Box(None, False, Reason.NOT_TEXT, 0, 0)
    if not text or text.isspace():
        return Box(None, False, Reason.EMPTY, 0, 0)
    outside, fault, thought_chars = _split_thoughts(text, prefilled)
    answer_start = outside[-1][0]
    if fault is Reason.UNCLOSED_THINK:
        return Box(None, False, fault, thought_chars, answer_start)
    boxes: list[str] = []
    for start, end in outside:
        n_before = len(boxes)  # in the end: the boxes ahead of the last block
        if not _read_boxes(text, start, end, boxes):
            return Box(None, False, Reason.UNCLOSED_BOX, thought_chars, answer_start)
    if len(boxes) == n_before:
        reason = Reason.NO_BOX
        if boxes:
            reason = Reason.BOX_BEFORE_THINK
        elif BOX_OPEN in text:
            reason = Reason.BOX_IN_THINK
        return Box(None, False, reason, thought_chars, answer_start)
    content = boxes[-1]
    if len(boxes) > 1:
        if any(other != content for other in boxes):
            return Box(None, False, Reason.CONFLICTING_BOXES, thought_chars, answer_start)
        fault = fault or Reason.REPEATED_BOX
    if not content:
        return Box(None, False, Reason.EMPTY_BOX, thought_chars, answer_start)
    return Box(content, fault is None, fault or Reason.OK, thought_chars, answer_start)


def _split_thoughts(text: str, prefilled: bool) -> tuple[list[tuple[int, int]], Reason | None, int]:
    """The stretches of `text` outside the thoughts (the last one is the answer), the first fault, the thoughts' length.

    A tag is searched again only when the scan has passed its last place, so the searches do not overlap.
    """
    n = len(text)
    opened, closed = text.find(THINK_OPEN), text.find(THINK_CLOSE)
    if opened < 0 and closed < 0 and not prefilled:
        return [(0, n)], Reason.NO_THINK, 0

    fault: Reason | None = None
    outside: list[tuple[int, int]] = []
    if 0 <= opened < (closed if closed >= 0 else n) and not text[:opened].strip():
        start = opened + len(THINK_OPEN)  # the normal case; also of a model that repeats the tag of its template
    elif prefilled:
        start = 0
    elif opened < 0 or 0 <= closed < opened:
        fault, start = Reason.THINK_NOT_OPENED, 0
    else:
        fault, start = Reason.TEXT_BEFORE_THINK, opened + len(THINK_OPEN)
        outside.append((0, opened))

    thought_chars = 0
    while True:
        # The scan stands at `start`, inside a block.
        if closed < 0:
            return [*outside, (n, n)], Reason.UNCLOSED_THINK, thought_chars + n - start
        thought_chars += closed - start
        if fault is None:
            if text.find(THINK_OPEN, start, closed) >= 0:
                fault = Reason.EXTRA_THINK
            elif not text[start:closed].strip():
                fault = Reason.EMPTY_THINK
        answer = closed + len(THINK_CLOSE)
        closed = text.find(THINK_CLOSE, answer)
        while True:
            # The scan stands at `answer`, outside the blocks.
            if 0 <= opened < answer:
                opened = text.find(THINK_OPEN, answer)
            if opened < 0 and closed < 0:
                return [*outside, (answer, n)], fault, thought_chars
            fault = fault or Reason.EXTRA_THINK
            if opened >= 0 and (closed < 0 or opened < closed):
                outside.append((answer, opened))
                start = opened + len(THINK_OPEN)
                break
            # A stray closing tag: what stands before it was said outside the thoughts.
            outside.append((answer, closed))
            answer = closed + len(THINK_CLOSE)
            closed = text.find(THINK_CLOSE, answer)


def _read_boxes(text: str, start: int, end: int, into: list[str]) -> bool:
    """Append the stripped content of each box in text[start:end]; False when one of them does not close there."""
    at = text.find(BOX_OPEN, start, end)
    while at >= 0:
        inside = at + len(BOX_OPEN)
        close = closing_brace(text, inside, end)
        if close < 0:
            return False
        into.append(text[inside:close].strip())
        at = text.find(BOX_OPEN, close, end)
    return True


def unwrap(content: str) -> str:
    """Take one LaTeX text wrapper off a short content: `\\text{ 1 }` is `1`. Longer contents come back as they are."""
    match = _WRAPPER.fullmatch(content) if len(content) <= MAX_VERDICT_CHARS else None
    return content if match is None else match.group(1).strip()


def read_choice(content: str, choices: Collection[str] = PAIR_CHOICES) -> str | None:
    """The choice that a box content names in the strict form, or None.

    Digits are ASCII and stand alone; `tie` may have any case. `1.0`, `Response 1` and full-width digits are not the
    form the prompt asks for.
    """
    if content in choices:
        return content
    if len(content) > MAX_VERDICT_CHARS:
        return None
    content = unwrap(content)
    if content in choices:
        return content
    lowered = content.lower()
    return lowered if lowered == "tie" and lowered in choices else None


def parse_verdict(
    text: object,
    *,
    policy: Policy = "strict",
    choices: Collection[str] = PAIR_CHOICES,
    prefilled: bool = False,
) -> Verdict:
    """Read the verdict of a response.

    Args:
        text: what the model wrote.
        policy: `strict` for training: only the form the prompt asks for. `lenient` for judges that were never told
            about it: it also reads `Response 1`, `first`, `A`, `[[A]]`, `<answer>2</answer>` and the like. Both agree
            wherever strict finds a choice.
        choices: what may be chosen: PAIR_CHOICES, or `"1"` to `"N"` for more responses.
        prefilled: the chat template already wrote `<think>`.

    Never raises on what the model wrote; ValueError for an unknown policy. Linear time.

    >>> parse_verdict("<think>Same facts, but 2 is clearer.</think>\\\\boxed{2}").choice
    '2'
    >>> parse_verdict("<think>It is \\\\boxed{2}</think> I am sure.").reason.value
    'box_in_think'
    """
    if policy not in ("strict", "lenient"):
        raise ValueError(f"policy must be 'strict' or 'lenient', not {policy!r}")
    box = find_box(text, prefilled=prefilled)
    choice = None if box.content is None else read_choice(box.content, choices)
    raw = "" if box.content is None else box.content[:MAX_VERDICT_CHARS]
    if choice is not None:
        return Verdict(choice, box.well_formed, box.reason, raw, box.thought_chars)
    if policy == "lenient" and isinstance(text, str):
        choice = read_leniently(text, box, choices)
        if choice is not None:
            return Verdict(choice, False, Reason.LENIENT, raw, box.thought_chars)
    reason = box.reason if box.content is None else Reason.NOT_A_CHOICE
    return Verdict(None, False, reason, raw, box.thought_chars)


# --- The lenient policy -----------------------------------------------------------------------------------------------

LENIENT_WINDOW = 2_000
"""Characters at the end of a response in which the lenient policy looks for a verdict; judges conclude at the end."""

_ORDINALS = {
    word: str(number)
    for number, words in enumerate(
        (("first", "one"), ("second", "two"), ("third", "three"), ("fourth", "four"), ("fifth", "five"),
         ("sixth", "six"), ("seventh", "seven"), ("eighth", "eight")),
        start=1,
    )
    for word in words
}  # fmt: skip

_TIE_WORDS = frozenset({"tie", "tied", "draw", "equal", "both", "equally good", "same", "neither"})

_NAME = r"(?:response|answer|option|assistant|candidate|model|output|reply)"
_PICK = r"(?:\d{1,2}(?:\.0)?|[a-h]|first|second|third|fourth|fifth|sixth|seventh|eighth|one|two)"

# A phrase that names one response and nothing else: `Response 1`, `the second answer`, `(A)`, `Answer B is better.`
_PHRASE = re.compile(
    rf"(?:the\s+)?(?:better\s+)?(?:{_NAME}\s*)?[#(]?\s?(?P<pick>{_PICK})\)?(?:\s+{_NAME})?(?:\s+is\s+(?:the\s+)?better)?"
)

# Places where a judge states its verdict, the most explicit first. All statements of one kind must agree.
_STATEMENTS = (
    re.compile(r"<answer>([^<>]{1,64})</answer>", re.IGNORECASE),
    re.compile(r"\[\[([^\[\]]{1,32})\]\]"),
    re.compile(
        r"\b(?:verdict|final answer|better (?:response|answer)|winner|choice|preferred (?:response|answer))"
        r"(?:\s+is)?\s?(?::|\bis\b)\s?([^\n.;,]{1,64})",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?<!not )(?<!whether )(?<!if )\b(?:the\s)?({_NAME}\s?{_PICK}|(?:first|second|third|fourth)\s{_NAME})"
        r"\s(?:is|was)\s(?:(?:clearly|slightly|much|overall|generally|therefore|thus)\s)?(?:the\s)?(?:better|best|preferred)\b",
        re.IGNORECASE,
    ),
)


def read_phrase(phrase: str, choices: Collection[str] = PAIR_CHOICES) -> str | None:
    """The choice that a short phrase names, or None. Full-width and other compatibility characters count as ASCII.

    >>> [read_phrase(p) for p in ("Response 1", "the second answer", "(B)", "**Tie**", "1.0", "1 or 2")]
    ['1', '2', '2', 'tie', '1', None]
    """
    if len(phrase) > MAX_VERDICT_CHARS:
        return None
    words = unicodedata.normalize("NFKC", unwrap(phrase.strip())).casefold().strip("*_\"'`.,:;!$[]() \t\n")
    if words in _TIE_WORDS:
        return "tie" if "tie" in choices else None
    match = _PHRASE.fullmatch(words)
    if match is None:
        return None
    pick = match["pick"]
    if pick[0].isdigit():
        choice = str(int(pick.split(".")[0]))
    elif len(pick) == 1:
        # In the pairwise form with letters, C stands for a tie.
        choice = "tie" if pick == "c" and "3" not in choices else str(ord(pick) - ord("a") + 1)
    else:
        choice = _ORDINALS[pick]
    return choice if choice in choices else None


def read_leniently(text: str, box: Box, choices: Collection[str] = PAIR_CHOICES) -> str | None:
    """The verdict of a response that the strict policy could not read, or None.

    Only the words count that stand outside the thoughts; what is ambiguous or cut off stays unread.
    """
    if box.reason in (Reason.CONFLICTING_BOXES, Reason.UNCLOSED_THINK, Reason.UNCLOSED_BOX):
        return None
    if box.content is not None:
        return read_phrase(box.content, choices)
    answer = text[max(box.answer_start, len(text) - LENIENT_WINDOW) :]
    whole = read_phrase(answer.strip()[: MAX_VERDICT_CHARS + 1], choices)
    if whole is not None:
        return whole
    for statement in _STATEMENTS:
        said = [read_phrase(match, choices) for match in statement.findall(answer)]
        if said:
            return said[0] if len(set(said)) == 1 else None
    return None
