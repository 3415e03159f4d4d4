"""From the text of a response to a verdict.

A reward pays for what this file reads, so this is where a model under training looks for holes. Two rules keep it
simple. Structure comes before meaning: `find_box` decides which box counts, from the think tags and the braces alone;
`read_choice` decides what its content says. And it never guesses in favour of the model: an ambiguous response (two
different boxes, a verdict inside the thoughts, a block that never closes) has no verdict and a reason why.

The grammar of a well-formed response:

    response = blank "<think>" thoughts "</think>" prose box prose
    thoughts = text, not blank, without think tags; a box quoted in it is ignored
    prose    = text without think tags and without a box
    box      = "\\boxed{" choice "}"        the only box outside the thoughts

Every step is a forward scan for fixed strings or character classes, so the time is linear in the length of any text.

This file imports the standard library only and needs no sibling, so it can be copied on its own.
"""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Parsing = Literal["strict", "lenient"]
"""strict: only the form that our prompt asks for. lenient: also what other models and prompts make of it."""

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
BOX_OPEN = "\\boxed{"

PAIR_CHOICES = ("1", "2", "tie")
"""What a pairwise judge may answer: the first response, the second, or neither is better."""

MAX_VERDICT_CHARS = 64
"""A longer box content is not a verdict."""


class Reason(StrEnum):
    """Why a response was read the way it was. Metrics, logs and reports count these."""

    OK = "ok"
    """Well-formed."""

    # There is a choice, but not in the form that the prompt asks for.
    NO_THINK = "no_think"
    EMPTY_THINK = "empty_think"
    THINK_NOT_OPENED = "think_not_opened"
    TEXT_BEFORE_THINK = "text_before_think"
    EXTRA_THINK = "extra_think"
    REPEATED_BOX = "repeated_box"
    LENIENT = "lenient"
    """Only lenient parsing found the choice."""

    # No choice.
    NOT_TEXT = "not_text"
    EMPTY = "empty"
    UNCLOSED_THINK = "unclosed_think"
    UNCLOSED_BOX = "unclosed_box"
    BOX_IN_THINK = "box_in_think"
    BOX_BEFORE_THINK = "box_before_think"
    CUT_OFF = "cut_off"
    """Ended by the token limit, without a closed think block or without a box after it."""
    NO_BOX = "no_box"
    EMPTY_BOX = "empty_box"
    CONFLICTING_BOXES = "conflicting_boxes"
    NOT_A_CHOICE = "not_a_choice"

    # An answer to a question (answer.py) that could not be compared with the label.
    ANSWER_TOO_LONG = "answer_too_long"
    UNKNOWN_UNIT = "unknown_unit"
    SYMBOLIC_LIMIT = "symbolic_limit"
    SYMBOLIC_UNAVAILABLE = "symbolic_unavailable"
    """math-verify is missing, or its process did not start or died."""

    # Not the model's fault.
    BAD_LABEL = "bad_label"
    """The ground truth is malformed. Never seen in a run whose data passed `prepare` and `preflight`."""

    NO_ROUTE = "no_route"
    """mixed.py has no reward for the row's data_source."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box that counts, before its content is given a meaning."""

    content: str | None
    """The text between the braces, stripped; None when no box counts."""

    well_formed: bool
    """True when the structure follows the grammar."""

    reason: Reason
    """OK, or the first fault in the order of the checks."""

    thought_chars: int
    """Length of the thoughts (all blocks together) in characters."""

    answer_start: int
    """Index of the first character after the last block."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response says, and whether it keeps the form."""

    choice: str | None
    """One of the allowed choices, or None."""

    well_formed: bool
    """True when the whole response follows the grammar. Implies a choice."""

    reason: Reason
    """OK exactly when well_formed."""

    raw: str = ""
    """Content of the box that counts, at most MAX_VERDICT_CHARS characters; "" without one."""

    thought_chars: int = 0
    """Length of the thoughts in characters."""


# Braces that group. An escaped character is matched first, so that \{ and \} do not count.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")


def closing_brace(text: str, start: int, end: int | None = None) -> int:
    """Index of the brace that closes the group whose content begins at `start`; -1 when none does before `end`.

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


def find_box(text: object, *, prefilled: bool = False, finished: bool = True) -> Box:
    """Decide which box of a response counts, from its think tags and braces alone.

    The first `</think>` ends a block, as in serving engines: blocks do not nest. Boxes inside a block are ignored. The
    boxes outside must agree, and one of them must come after the last block.

    Args:
        text: what the model wrote. Anything but a string is NOT_TEXT.
        prefilled: the chat template already wrote `<think>`, so the response begins inside the thoughts.
        finished: False for a response that the token limit ended (finish reason `length`). Without a closed block it
            may consist of thoughts only, so it has no verdict (CUT_OFF).

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
    if fault is Reason.NO_THINK and not finished:
        return Box(None, False, Reason.CUT_OFF, 0, len(text))
    boxes: list[str] = []
    for start, end in outside:
        n_before = len(boxes)  # after the loop: the boxes ahead of the last block
        if not _read_boxes(text, start, end, boxes):
            return Box(None, False, Reason.UNCLOSED_BOX, thought_chars, answer_start)
    if len(boxes) == n_before:
        reason = Reason.NO_BOX
        if not finished:
            reason = Reason.CUT_OFF
        elif boxes:
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
    """The spans of `text` outside the thoughts (the last one is the answer), the first fault, the thoughts' length.

    A tag is searched again only after the scan has passed its last position, so the searches do not overlap.
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
        # The scan is at `start`, inside a block.
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
            # The scan is at `answer`, outside the blocks.
            if 0 <= opened < answer:
                opened = text.find(THINK_OPEN, answer)
            if opened < 0 and closed < 0:
                return [*outside, (answer, n)], fault, thought_chars
            fault = fault or Reason.EXTRA_THINK
            if opened >= 0 and (closed < 0 or opened < closed):
                outside.append((answer, opened))
                start = opened + len(THINK_OPEN)
                break
            # A stray closing tag: the text before it is outside the thoughts.
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
    """Remove one LaTeX text wrapper from a short content: `\\text{ 1 }` is `1`. Longer contents stay as they are."""
    match = _WRAPPER.fullmatch(content) if len(content) <= MAX_VERDICT_CHARS else None
    return content if match is None else match.group(1).strip()


def read_choice(content: str, choices: Collection[str] = PAIR_CHOICES) -> str | None:
    """The choice that a box content names in the strict form, or None.

    That is a single ASCII digit, or `tie` in any case; not `1.0`, `Response 1` or a full-width digit.
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
    parsing: Parsing = "strict",
    choices: Collection[str] = PAIR_CHOICES,
    prefilled: bool = False,
    finished: bool = True,
    policy: Parsing | None = None,
) -> Verdict:
    """Read the verdict of a response.

    Args:
        text: what the model wrote.
        parsing: `strict` for training. `lenient` for judges that were not told about the form: it also reads
            `Response 1`, `first`, `A`, `[[A]]`, `<answer>2</answer>` and the think tags and boxes of other model
            families. Without such tags, both agree wherever strict finds a choice.
        choices: what may be chosen: PAIR_CHOICES, or `"1"` to `"N"` for more responses.
        prefilled: the chat template already wrote `<think>`.
        finished: False when the token limit ended the response, see `find_box`.
        policy: former name of `parsing`.

    Never raises on what the model wrote; ValueError for an unknown `parsing`. Linear time.

    >>> parse_verdict("<think>Same facts, but 2 is clearer.</think>\\\\boxed{2}").choice
    '2'
    >>> parse_verdict("<think>It is \\\\boxed{2}</think> I am sure.").reason.value
    'box_in_think'
    >>> parse_verdict("Perhaps \\\\boxed{2}, but", finished=False).reason.value
    'cut_off'
    """
    parsing = policy or parsing
    if parsing not in ("strict", "lenient"):
        raise ValueError(f"parsing must be 'strict' or 'lenient', not {parsing!r}")
    box = find_box(text, prefilled=prefilled, finished=finished)
    choice = None if box.content is None else read_choice(box.content, choices)
    well_formed = choice is not None and box.well_formed
    if parsing == "lenient" and isinstance(text, str) and not well_formed:
        native = native_tags(text)
        if native != text:
            box = find_box(native, prefilled=prefilled, finished=finished)
        if choice is None or native != text:
            choice = read_leniently(native, box, choices)
            if choice is not None:
                return Verdict(choice, False, Reason.LENIENT, _raw(box), box.thought_chars)
    reason = box.reason if choice is not None or box.content is None else Reason.NOT_A_CHOICE
    return Verdict(choice, well_formed, reason, _raw(box), box.thought_chars)


def _raw(box: Box) -> str:
    return (box.content or "")[:MAX_VERDICT_CHARS]


# --- Lenient parsing --------------------------------------------------------------------------------------------------

LENIENT_WINDOW = 2_000
"""Characters at the end of a response in which lenient parsing looks for a verdict; judges conclude at the end."""

_TAG = r"(?:(?:seed|mm):)?(?:think|thinking|thoughts?|reasoning|reflection|analysis)"

# Think tags and boxes of other model families, as their chat templates and vLLM's reasoning parsers write them.
_FOREIGN = re.compile(
    rf"""
    (?P<open> <{_TAG}>                                     # <thinking>; <seed:think>, Seed-OSS; <mm:think>, MiniMax M3
        | \[think(?:ing)?\]                                # Magistral, Ministral
        | ◁think▷                                          # Kimi-VL
        | <\|(?:thinking|begin_of_thought|start_thinking)\|>              # OpenThinker, Command A Reasoning
        | <\|channel>                                      # Gemma 4
        | <\|channel\|>(?:analysis|commentary)[^<]{{0,64}}<\|message\|>   # gpt-oss
        | \A(?-i:analysis(?=[A-Z]))                        # gpt-oss without its special tokens
        | here(?:'s|\ is)\ my\ thought\ process: )         # Granite
    | (?P<close> </{_TAG}>
        | \[/think(?:ing)?\]
        | ◁/think▷
        | <\|(?:/thinking|end_of_thought|end_thinking)\|>
        | <channel\|>
        | <\|channel\|>final[^<]{{0,64}}<\|message\|>
        | (?-i:assistantfinal)
        | here(?:'s|\ is)\ my\ response: )
    | (?P<box> <\|begin_of_box\|> )                         # GLM-4.5V
    | (?P<unbox> <\|end_of_box\|> )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NATIVE = {"open": THINK_OPEN, "close": THINK_CLOSE, "box": BOX_OPEN, "unbox": "}"}

_SPECIAL_TOKEN = re.compile(r"<\|[A-Za-z_]{1,32}\|>|</?response>|<turn\|>|<eos>|</s>")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def native_tags(text: str) -> str:
    """The text with the think tags and boxes of other model families written as ours.

    >>> native_tags("◁think▷First or second?◁/think▷<|begin_of_box|>1<|end_of_box|>")
    '<think>First or second?</think>\\\\boxed{1}'
    """
    return _FOREIGN.sub(lambda match: _NATIVE[match.lastgroup or ""], text)


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

# Where a judge states its verdict, most explicit first. All statements of one kind must agree.
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
    phrase = phrase.strip()
    boxed = _BOXED.fullmatch(phrase)
    words = (
        unicodedata.normalize("NFKC", unwrap(boxed[1].strip() if boxed else phrase))
        .casefold()
        .strip("*_\"'`.,:;!$[]() \t\n")
    )
    if words in _TIE_WORDS:
        return "tie" if "tie" in choices else None
    match = _PHRASE.fullmatch(words)
    if match is None:
        return None
    pick = match["pick"]
    if pick[0].isdigit():
        choice = str(int(pick.split(".")[0]))
    elif len(pick) == 1:
        # In pairwise prompts with letters, C means a tie.
        choice = "tie" if pick == "c" and "3" not in choices else str(ord(pick) - ord("a") + 1)
    else:
        choice = _ORDINALS[pick]
    return choice if choice in choices else None


def read_leniently(text: str, box: Box, choices: Collection[str] = PAIR_CHOICES) -> str | None:
    """The verdict of a response that strict parsing could not read, or None.

    Only words outside the thoughts count; what is ambiguous or cut off has no verdict.
    """
    if box.reason in (Reason.CONFLICTING_BOXES, Reason.UNCLOSED_THINK, Reason.UNCLOSED_BOX, Reason.CUT_OFF):
        return None
    if box.content is not None:
        return read_phrase(box.content, choices)
    answer = _SPECIAL_TOKEN.sub(" ", text[max(box.answer_start, len(text) - LENIENT_WINDOW) :])
    whole = read_phrase(answer.strip()[: MAX_VERDICT_CHARS + 1], choices)
    if whole is not None:
        return whole
    for statement in _STATEMENTS:
        said = [read_phrase(match, choices) for match in statement.findall(answer)]
        if said:
            return said[0] if len(set(said)) == 1 else None
    return None
