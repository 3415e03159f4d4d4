"""The score of the public LLaVA-Critic-R1 release, for people who compare with it.

The release scores with a stock math reward: blanks around `<`, `>` and `/` are removed, the form is the expression
`<think>.*</think>.*\\boxed{.*}.*` on the whole text, the answer is the content of the *last* box anywhere, thoughts
included, and a symbolic checker (mathruler) compares it with the label. Its faults are part of what is reproduced: it
pays for a verdict inside the thoughts and for two verdicts that contradict each other.

Two things are done differently, with the same result. The form is found by four searches in linear time instead of a
backtracking expression. Answers are compared without sympy: labels are "1", "2" or "tie" (others are not supported),
and for these mathruler never simplifies more than a short sum. `same_answer` lists what mathruler counts as equal.

One thing is bounded. A box with more than MAX_ANSWER_CHARS characters is a wrong answer here; mathruler spends any
amount of time on it, and would accept it only as a label padded with that many zeros, blanks or units.
"""

import re
from decimal import Decimal

MAX_ANSWER_CHARS = 256
"""A longer answer is wrong."""

BOX_OPEN = "\\boxed{"

_TAG_CHARS = re.compile(r"([<>/])")
_BRACE = re.compile(r"[{}]")


def tighten(text: str) -> str:
    """Remove the blanks around `<`, `>` and `/`, as the release does, in linear time.

    >>> tighten("< think >so: 1 / 2 </ think>")
    '<think>so: 1/2</think>'
    """
    pieces = _TAG_CHARS.split(text)  # text, character, text, ..., text
    last = len(pieces) - 1
    for index in range(0, len(pieces), 2):
        if index > 0:
            pieces[index] = pieces[index].lstrip()
        if index < last:
            pieces[index] = pieces[index].rstrip()
    return "".join(pieces)


def has_release_form(text: str) -> bool:
    """Whether the (tightened) text matches the release's expression.

    It does iff the text begins with the opening tag and then has, in this order, a closing tag, the opening of a box
    and a closing brace. Taking the first of each loses no match.
    """
    if not text.startswith("<think>"):
        return False
    at = text.find("</think>", len("<think>"))
    at = -1 if at < 0 else text.find(BOX_OPEN, at + len("</think>"))
    return at >= 0 and text.find("}", at + len(BOX_OPEN)) >= 0


def last_box(text: str) -> str:
    """Content of the last box, stripped; "None" when there is none or it does not close, as in mathruler."""
    start = text.rfind(BOX_OPEN)
    if start < 0:
        return "None"
    start += len(BOX_OPEN)
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth < 0:
            return text[start : match.start()].strip()
    return "None"


def score_like_release(text: object, label: str) -> tuple[float, float]:
    """(accuracy, form) of a response as the release computes them, each 0.0 or 1.0; (0, 0) for anything but a string.

    Raises:
        ImportError: without pylatexenc, at the first response and not only at the first LaTeX in one.
    """
    import pylatexenc.latex2text  # noqa: F401

    if not isinstance(text, str):
        return 0.0, 0.0
    text = tighten(text)
    return float(same_answer(last_box(text), label)), float(has_release_form(text))


# --- What mathruler 0.1.0 counts as equal to "1", "2" or "tie" --------------------------------------------------------
# It tries two readings. Steps that cannot end in one of the three labels are left out.

_TEXT = re.compile(r"^\\text\{(.+?)\}$")
_DROPPED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
_UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year", "foot",
    "feet", "inch", "yard",
)  # fmt: skip
_UNIT_PATTERNS = tuple(re.compile(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?") for unit in _UNITS)
_DEGREE = re.compile(r"\^ *\\circ")
_THIN_SPACE = re.compile(r",\\! *")
_MIXED_NUMBER = re.compile(r"[0-9] +[0-9]")
_THOUSANDS = re.compile(r"(\d),(\d\d\d)(?=$|\D)")
_SYMPY_NUMBER = re.compile(r"\+?(?:[1-9][0-9]*|[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?:\.[0-9]*)?e[+-]?[0-9]+)")


def same_answer(answer: str, label: str) -> bool:
    """Whether mathruler counts a (stripped) box content as equal to a label.

    >>> [same_answer(a, "1") for a in ("1", "1.0", "(1)", "1 cm", "x=1", "Response 1", "2")]
    [True, True, True, True, True, False, False]
    """
    if len(answer) > MAX_ANSWER_CHARS or label not in ("1", "2", "tie"):
        return False
    if answer == label or _plain_reading(answer) == label:
        return True
    number = _numeric_reading(answer)
    if not number:
        return False
    if number == label:
        return True
    if label == "tie":
        return False
    # A bracketed number is compared by value.
    number = _without_thousands(number)
    if len(number) > 2 and number[0] in "()[]" and number[-1] in "()[]":
        inner = number[1:-1].strip()
        return _SYMPY_NUMBER.fullmatch(inner) is not None and Decimal(inner) == int(label)
    return False


def _plain_reading(answer: str) -> str | None:
    match = _TEXT.search(answer)
    if match is not None:
        answer = match.group(1).strip()
    answer = answer.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    for token in _DROPPED:
        answer = answer.replace(token, "")
    parts = answer.split("\\text{ ")
    if len(parts) > 2:
        return None
    answer = parts[0].replace("\\%", "").replace("%", "")
    sides = answer.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        answer = sides[1]
    return answer.replace(" ", "")


def _numeric_reading(answer: str) -> str | None:
    match = _TEXT.search(answer)
    if match is not None:
        answer = match.group(1)
    answer = answer.replace("\\%", "%").replace("\\$", "$").replace("$", "").replace("%", "")
    if "illion" in answer:
        # Read on: an unclosed LaTeX group may swallow the power.
        for word, power in (("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12")):
            answer = answer.replace(word, power)
    # A list is never equal to a label: "1 or 2" keeps its comma to the end.
    answer = answer.replace(" or ", " , ").replace(" and ", " , ")
    for pattern in _UNIT_PATTERNS:
        answer = pattern.sub("", answer)
    answer = _DEGREE.sub("", answer)
    if answer and answer[0] == "{" and answer[-1] == "}":
        answer = answer[1:-1]
    answer = _THIN_SPACE.sub("", answer)
    value = _whole(answer)
    if value is not None:
        answer = str(round(value))
    if "\\" in answer:
        answer = _latex_to_text(
            answer.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
        )
    answer = re.sub("- *", "-", answer)
    if _MIXED_NUMBER.search(answer):
        return None
    answer = answer.replace(" ", "").replace("{", "").replace("}", "").lower()
    value = _whole(_without_thousands(answer))
    if value is not None:
        answer = str(int(float(answer.replace(",", ""))))
    return answer


def _whole(answer: str) -> float | None:
    """The number that the text states, when it is whole up to 1e-7."""
    try:
        value = float(answer)
        return value if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def _without_thousands(answer: str) -> str:
    """Remove the commas of properly grouped numbers."""
    while True:
        shorter = _THOUSANDS.sub(r"\1\2", answer)
        if shorter == answer:
            return answer
        answer = shorter


def _latex_to_text(given: str) -> str:
    """What pylatexenc (which verl brings along) makes of LaTeX; the input when it cannot read it."""
    from pylatexenc.latex2text import LatexNodes2Text

    answer = given.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    try:
        return str(LatexNodes2Text().latex_to_text(answer)).strip()
    except Exception:  # as in the release
        return given
