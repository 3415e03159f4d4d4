r"""The reward for questions: does the answer in the box state what the label states?

Critic and question rows can be mixed in one run, as in the paper's ablations. The first rule that applies decides:

1.  The texts are equal in spelling: width, case, blanks, LaTeX wrappers, a leading article, a final full stop.
2.  Options of a multiple choice: `C`, `(C)`, `C.`, `\boxed{C}`, `Option C`, `C. a dog`. The letter decides; where both
    sides state the text of the option, that must agree as well. `A, C`, `AC` and `C and A` are the same set.
3.  Yes and no, with an explanation after a comma or a full stop.
4.  Ranges, ratios, times and dates are equal part by part.
5.  Numbers and quantities are exact: no rounding, unless `tolerance` allows a relative error. Units are converted. A
    unit that only one side states is not compared; a percentage is also its fraction. Different dimensions differ, and
    a unit that quantity.py does not know equals only itself (reason `unknown_unit`).
6.  Expressions are compared by math-verify (symbolic.py), which takes decimals for equal at six places.

What could not be compared scores 0, and the reason says why.
"""

import ast
import re
from fractions import Fraction
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reward_fns.quantity import MAX_CHARS, PERCENT, Quantity, clean, read_number, read_quantity, read_unit
    from reward_fns.symbolic import SymbolicChecker
    from reward_fns.verdict import MAX_VERDICT_CHARS, Reason, find_box
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    _quantity, _verdict = _sibling("quantity"), _sibling("verdict")
    MAX_CHARS, PERCENT, Quantity = _quantity.MAX_CHARS, _quantity.PERCENT, _quantity.Quantity
    clean, read_number = _quantity.clean, _quantity.read_number
    read_quantity, read_unit = _quantity.read_quantity, _quantity.read_unit
    SymbolicChecker = _sibling("symbolic").SymbolicChecker
    MAX_VERDICT_CHARS, Reason, find_box = _verdict.MAX_VERDICT_CHARS, _verdict.Reason, _verdict.find_box

MAX_ANSWER_CHARS = MAX_CHARS
"""A longer answer is wrong; a longer label is refused."""

CHECKER = SymbolicChecker()
"""Shared by all threads of a reward worker; `CHECKER.failures` counts what it could not compare."""

_MACRO_OR_TEXT = re.compile(r"\\[A-Za-z]+|[^\\]+|\\")
_ARTICLE = re.compile(r"(?:a|an|the) (?=[^\W\d_]{2})")

# The text of an option may be anything but the rest of an expression such as (x) + 3.
_OPTION = re.compile(
    r"[(\[{]?\s*([A-Za-z])"
    r"(?:(?:\s*[)\]}][.:]?|[.:、])"
    r"(?:\s+|$|(?=[^\x00-\x7f])|(?<=、)|(?<=[A-Z][.)\]])(?=[A-Za-z]{2}|[0-9]|a ))(?![-+*/^=<>])"
    r"|(?<=[A-Z])\s+-\s+(?=[a-z]|[A-Z][a-z]))(.*)",
    re.DOTALL,
)
# In the text of the chosen option: a second choice.
_ANOTHER_OPTION = re.compile(
    r"[(\[]\s*[A-Za-z]\s*[)\]]|\b[A-Za-z]\)|\b(?:or|and|not)\s+(?:option\s+)?[A-Za-z]\b(?!')|[,/&]\s*[A-Z]\b"
)
_LETTERS = re.compile(r"[(\[{]?[A-Z][)\]}]?(?:(?:\s*(?:,\s*and\b|,|;|/|&|、|\band\b)\s*|\s*)[(\[{]?[A-Z][)\]}]?)+")
_YES_NO = re.compile(r"(yes|no)\s*[,.;:!]\s*(.*)", re.DOTALL)

# 3-5 cm, 1:2, 10:30, 2020-10-05: numbers with links between them. Algebra would subtract or divide them.
_PART = r"[-+]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)%?"
_CHAIN = re.compile(rf"({_PART})((?:\s*(?:-|:|/|\bto\b)\s*{_PART})+)(?:\s*([A-Za-zμΩ°%].*))?")
_LINK = re.compile(rf"\s*(-|:|/|to)\s*({_PART})")

# x =, f(x) =, \angle ABC =
_ASSIGNMENT = re.compile(r"(?:\\[a-z]+\s*)?[A-Za-z]{0,4}(?:_\{?[A-Za-z0-9]+\}?)?(?:\([a-z]\))?\s*=\s*(?=[^=\s])")
_MATH = re.compile(r"[0-9\\^+*/=<>]")
_TOKEN = re.compile(r"\\?[A-Za-z]+")
# Letters in a row that are not a word: functions, connectives, products of variables.
_FUNCTION = re.compile(
    r"(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|lg|exp|sqrt|frac|max|min|gcd|lcm|mod|pi|or|and|[a-d]{3}|[x-z]{3}"
)
_SMALL_WORDS = frozenset({
    "am", "an", "as", "at", "be", "by", "do", "he", "if", "in", "is", "it", "me", "my", "no", "of", "on", "so", "to",
    "up", "us", "we",
})  # fmt: skip


def normalise(answer: str) -> str:
    """One spelling for answers that differ in spelling only. LaTeX macros keep their case.

    >>> [normalise(a) for a in ("The Dog.", "$\\\\text{Blue}$", "\\\\Delta X")]
    ['dog', 'blue', '\\\\Delta x']
    """
    text = _MACRO_OR_TEXT.sub(lambda match: match[0] if match[0][0] == "\\" else match[0].casefold(), clean(answer))
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


def alternatives(label: str) -> list[str]:
    """The answers that a label allows: a list of strings, as MMMU and DocVQA write it, or the label itself.

    >>> alternatives("['8', 'eight']"), alternatives("[1, 2]")
    (['8', 'eight'], ['[1, 2]'])
    """
    text = label.strip()
    if text[:2] in ("['", '["') and text.endswith("]"):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [label]
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            return found
    return [label]


def same_answer(answer: str, truth: str, *, symbolic: bool = True, tolerance: float = 0.0) -> bool:
    """Whether an answer states what the label states; see `compare`.

    >>> [same_answer(a, "1/2", symbolic=False) for a in ("0.5", "50%", "\\\\dfrac{1}{2}", "2")]
    [True, True, True, False]
    >>> [same_answer(a, "(C)") for a in ("C", "C. a dog", "D")], same_answer("100 mm", "10 cm")
    ([True, True, False], True)
    """
    return compare(answer, truth, symbolic=symbolic, tolerance=tolerance)[0]


def compare(answer: str, truth: str, *, symbolic: bool = True, tolerance: float = 0.0) -> tuple[bool, Reason]:
    """Compare an answer with a label.

    Args:
        symbolic: ask math-verify about expressions.
        tolerance: largest relative error of a number, 0 for exact.

    Returns:
        whether they are the same, and OK or the reason why this cannot be told (`False` then).
    """
    if len(answer) > MAX_ANSWER_CHARS or len(truth) > MAX_ANSWER_CHARS:
        return False, Reason.ANSWER_TOO_LONG
    if answer.strip() == truth.strip():
        return bool(normalise(truth)), Reason.OK
    reasons = []
    for label in alternatives(truth):
        same, reason = _compare(clean(answer), clean(label), symbolic, tolerance)
        if same:
            return True, Reason.OK
        reasons.append(reason)
    return False, next((reason for reason in reasons if reason is not Reason.OK), Reason.OK)


def _compare(given: str, wanted: str, symbolic: bool, tolerance: float) -> tuple[bool, Reason]:
    if given == wanted:
        return bool(wanted), Reason.OK
    option = _compare_options(given, wanted, symbolic, tolerance)
    if option is not None:
        return option
    if "=" in given and "=" not in wanted:
        given = _ASSIGNMENT.sub("", given, count=1) if _ASSIGNMENT.match(given) else given
    elif "=" in wanted and "=" not in given:
        wanted = _ASSIGNMENT.sub("", wanted, count=1) if _ASSIGNMENT.match(wanted) else wanted
    chains = _read_chain(given), _read_chain(wanted)
    if any(chains):
        return chains[0] == chains[1], Reason.OK
    quantities = read_quantity(given), read_quantity(wanted)
    if quantities[0] is not None and quantities[1] is not None:
        decided = _compare_quantities(quantities[0], quantities[1], symbolic, tolerance)
        if decided is not None:
            return decided
    plain = normalise(given), normalise(wanted)
    if plain[0] == plain[1]:
        return bool(plain[1]), Reason.OK
    yes_no = _YES_NO.fullmatch(plain[0])
    if yes_no and plain[1] in ("yes", "no"):
        other = {"yes": "no", "no": "yes"}[plain[1]]
        return yes_no[1] == plain[1] and not re.search(rf"\b{other}\b", yes_no[2]), Reason.OK
    return _compare_expressions(given, wanted, symbolic)


# --- Multiple choice --------------------------------------------------------------------------------------------------


def _read_option(text: str) -> tuple[str, str] | None:
    """Letter (in capitals) and text of an option, or None: `C`, `(C)`, `C.`, `C) a dog`, `[C]: a dog`."""
    match = _OPTION.fullmatch(text)
    if match:
        return match[1].upper(), match[2].strip()
    return (text.upper(), "") if len(text) == 1 and text.isascii() and text.isalpha() else None


def _read_letters(text: str) -> str | None:
    """The letters of an answer with several options, in order: `A, C`, `AC`, `C and A`, `(A)(C)`."""
    letters = re.findall(r"[A-Z]", text) if _LETTERS.fullmatch(text.removeprefix("Options ")) else []
    if re.fullmatch("[A-Z]+", text) and sorted(letters) != letters:
        return None  # a word in capitals
    return "".join(sorted(letters)) if len(set(letters)) == len(letters) > 1 else None


def _compare_options(given: str, wanted: str, symbolic: bool, tolerance: float) -> tuple[bool, Reason] | None:
    """The decision, or None when the two are not about options."""
    several = _read_letters(wanted)
    chosen = several and _read_letters(re.sub(r"\b[a-z]\b", lambda match: match[0].upper(), given))
    if several and chosen:
        return chosen == several, Reason.OK
    said, label = _read_option(given), _read_option(wanted)
    if label is None:
        # The label is a text, and the answer states letter and text.
        return _compare(said[1], wanted, symbolic, tolerance) if said and said[1] else None
    if said is None:
        return _compare(given, label[1], symbolic, tolerance) if label[1] else None
    if said[0] != label[0]:
        return False, Reason.OK
    if said[1] and label[1]:
        return _compare(said[1], label[1], symbolic, tolerance)
    return not _ANOTHER_OPTION.search(said[1]), Reason.OK


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _read_chain(text: str) -> tuple[object, ...] | None:
    """Parts, links and unit of a range, ratio, time or date; None for anything else, a single fraction included."""
    match = _CHAIN.fullmatch(text)
    if match is None:
        return None
    links = _LINK.findall(match[2])
    kinds = ["-" if kind == "to" else kind for kind, _ in links]
    if kinds == ["/"]:
        return None
    numbers = [read_number(part.removesuffix("%")) for part in (match[1], *(part for _, part in links))]
    unit = " ".join((match[3] or "").casefold().split())
    return (*numbers, *kinds, read_unit(unit) or unit, text.count("%"))


def _compare_quantities(
    given: Quantity, wanted: Quantity, symbolic: bool, tolerance: float
) -> tuple[bool, Reason] | None:
    """The decision, or None when a unit looks like a variable."""
    units = [unit for unit in (given.unit, wanted.unit) if unit is not None]
    unknown = [unit for unit in units if unit.dimension is None]
    if unknown and len(unknown) == len(units) and not all(_is_word(unit.name) for unit in unknown):
        return None
    if unknown and given.unit != wanted.unit:
        return False, Reason.UNKNOWN_UNIT
    factor = Fraction(1)
    if given.unit is not None and wanted.unit is not None:
        if given.unit.dimension != wanted.unit.dimension:
            return False, Reason.OK
        factor = given.unit.factor / wanted.unit.factor
    if given.value is None or wanted.value is None:
        scaled = (
            given.expression
            if factor == 1
            else rf"({given.expression}) \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}"
        )
        return _compare_expressions(scaled, wanted.expression, symbolic)
    values = [given.value * factor]
    if given.unit == PERCENT and wanted.unit is None:
        values = [given.value / 100, *([given.value] if abs(wanted.value) > 1 else [])]  # a fraction is at most 1
    elif wanted.unit == PERCENT and given.unit is None:
        values = [given.value * 100, given.value]
    allowed = Fraction(tolerance) * abs(wanted.value)
    return any(abs(value - wanted.value) <= allowed for value in values), Reason.OK


def _is_word(name: str) -> bool:
    return re.fullmatch(r"[^\W\d_]{3,}(?:[\s-][^\W\d_]+){0,2}", name) is not None


# --- Expressions ------------------------------------------------------------------------------------------------------

_FAILED = {
    "too_long": Reason.ANSWER_TOO_LONG,
    "limit": Reason.SYMBOLIC_LIMIT,
    "unavailable": Reason.SYMBOLIC_UNAVAILABLE,
}


def _compare_expressions(given: str, wanted: str, symbolic: bool) -> tuple[bool, Reason]:
    """By math-verify, which drops units, words and foreign characters, and the case of macros."""
    sides = given, wanted
    macros = [set(re.findall(r"\\[A-Za-z]+", side)) for side in sides]
    if {macro.casefold() for macro in macros[0] - macros[1]} & {macro.casefold() for macro in macros[1] - macros[0]}:
        return False, Reason.OK
    if not symbolic or not all(_MATH.search(side) for side in sides) or any(_has_words(side) for side in sides):
        return False, Reason.OK
    brackets = [(side[0], side[-1]) if side[0] in "([" and side[-1] in ")]" and "," in side else None for side in sides]
    if (brackets[0] is None) != (brackets[1] is None):
        # A pair without its brackets keeps its order; math-verify would take it for a set.
        inside = [
            "".join(side[1:-1].split() if bracket else side.split())
            for side, bracket in zip(sides, brackets, strict=True)
        ]
        return inside[0] == inside[1], Reason.OK
    found = CHECKER.compare(wanted, given)
    return found == "equal", _FAILED.get(found, Reason.OK)


def _has_words(text: str) -> bool:
    """Whether an expression holds words, units or foreign characters, numbers side by side or an open end (`10+`)."""
    if not text.isascii() or text.endswith(("+", "-", "*", "/", "^", "=", "<", ">")):
        return True
    for token in _TOKEN.findall(text):
        if token[0] == "\\" or len(token) == 1 or _FUNCTION.fullmatch(token):
            continue
        if len(token) > 2 or token in _SMALL_WORDS or read_unit(token) is not None:
            return True
    return re.search(r"[0-9]\s+[0-9]", text) is not None


# --- The reward -------------------------------------------------------------------------------------------------------


def check_ground_truth(value: object) -> None:
    """Refuse a label that no answer can match.

    Raises:
        ValueError: naming the value and the remedy.
    """
    if not isinstance(value, str) or not normalise(value) or len(value) > MAX_ANSWER_CHARS:
        raise ValueError(
            f"ground_truth must be a text of 1 to {MAX_ANSWER_CHARS} characters, not {str(value)[:80]!r}: "
            "a row with a question needs a short answer"
        )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    format_weight: float = 0.1,
    prefilled: bool = False,
    symbolic: bool = True,
    tolerance: float = 0.0,
    **unused: Any,
) -> dict[str, Any]:
    """Reward of one answer; arguments and keys as in `preference.compute_score`.

    Args:
        symbolic: compare expressions by math-verify where text, numbers and units do not decide.
        tolerance: largest relative error of a number; 0 asks for the exact value, ChartQA allows 0.05.

    Returns:
        as `preference.compute_score`; pred is the answer in one spelling. When an answer in a box could not be compared
        with the label, reason says why: `answer_too_long`, `unknown_unit`, `symbolic_limit`, `symbolic_unavailable`.

    >>> compute_score("policy/digits", "<think>A closed loop below a bend.</think>\\\\boxed{6}", "6")["score"]
    1.0
    """
    if not (0.0 <= format_weight <= 1.0 and 0.0 <= tolerance < 1.0):
        raise ValueError(
            f"format_weight must lie in [0, 1] and tolerance in [0, 1): got {format_weight!r}, {tolerance!r}"
        )
    box = find_box(solution_str, prefilled=prefilled)
    label_ok = isinstance(ground_truth, str) and 0 < len(ground_truth) <= MAX_ANSWER_CHARS
    right, reason = False, box.reason
    if label_ok and box.content is not None:
        right, failure = compare(box.content, ground_truth, symbolic=symbolic, tolerance=tolerance)
        reason = box.reason if failure is Reason.OK else failure
    acc = 1.0 if right else 0.0
    form = 1.0 if box.well_formed else 0.0
    return {
        "score": min(1.0, (1.0 - format_weight) * acc + format_weight * form),
        "acc": acc,
        "format": form,
        "pred": "" if box.content is None else normalise(box.content[:MAX_ANSWER_CHARS])[:MAX_VERDICT_CHARS],
        "reason": reason.value if label_ok else Reason.BAD_LABEL.value,
        "credit": acc,
        "penalty": 0.0,
        "thought_chars": box.thought_chars,
    }
