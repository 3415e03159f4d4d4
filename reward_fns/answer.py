"""The reward for plain visual question answering in the same think/box format.

With it, critic and policy rows can be mixed in one run, as in the paper's ablations. An answer is compared in the
cheapest way that can settle it: as text, as a letter of a multiple choice, as a number, and only then as an expression
(symbolic.py). Where two numbers differ, or one side is plain words, the first steps are the last.
"""

import re
import unicodedata
from fractions import Fraction
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reward_fns.symbolic import SymbolicChecker
    from reward_fns.verdict import MAX_VERDICT_CHARS, Reason, find_box, unwrap
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    SymbolicChecker = _sibling("symbolic").SymbolicChecker
    _verdict = _sibling("verdict")
    MAX_VERDICT_CHARS, Reason = _verdict.MAX_VERDICT_CHARS, _verdict.Reason
    find_box, unwrap = _verdict.find_box, _verdict.unwrap

MAX_ANSWER_CHARS = 256
"""A longer answer is wrong without being looked at; labels are refused at this length."""

_CHECKER = SymbolicChecker()

_LETTER = re.compile(r"\(?([a-h])(?:[).:]\s*.*|\s*)", re.DOTALL)
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([0-9]{1,30})\}\{([0-9]{1,30})\}")
_RATIO = re.compile(r"([+-]?)([0-9]{1,30})/([0-9]{1,30})")
_NUMBER = re.compile(r"([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30})(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(%?)")
_MATH = re.compile(r"[0-9\\^+*/=]")


def normalise(answer: str) -> str:
    """One spelling for answers that differ only in spelling: width, case, blanks, dollar signs, a final full stop."""
    answer = unwrap(unicodedata.normalize("NFKC", answer).strip().strip("$").strip())
    answer = answer.replace("\\%", "%").replace("\\$", "").replace("$", "").replace("\\!", "").replace("\\,", "")
    return " ".join(answer.casefold().split()).removesuffix(".")


def read_number(answer: str) -> Fraction | None:
    """The exact value of an integer, decimal, percentage or fraction; None for everything else.

    >>> [str(read_number(a)) for a in ("7", "1,000.50", "-3/4", r"\\frac{1}{2}", "50%", "x")]
    ['7', '2001/2', '-3/4', '1/2', '1/2', 'None']
    """
    match = _FRACTION.fullmatch(answer) or _RATIO.fullmatch(answer)
    if match is not None:
        value = Fraction(int(match[2]), int(match[3])) if int(match[3]) else None
    else:
        match = _NUMBER.fullmatch(answer)
        if match is None:
            return None
        value = Fraction(match[2].replace(",", "").rstrip(".")) / (100 if match[3] else 1)
    return -value if value is not None and match[1] == "-" else value


def same_answer(answer: str, truth: str, *, symbolic: bool = True) -> bool:
    """Whether an answer states what the label states.

    >>> [same_answer(a, "1/2", symbolic=False) for a in ("0.5", "50%", r"\\dfrac{1}{2}", "2")]
    [True, True, True, False]
    """
    if len(answer) > MAX_ANSWER_CHARS or len(truth) > MAX_ANSWER_CHARS:
        return False
    answer, truth = normalise(answer), normalise(truth)
    if answer == truth:
        return bool(truth)
    if len(truth) == 1 and "a" <= truth <= "h":
        letter = _LETTER.fullmatch(answer)
        return letter is not None and letter[1] == truth
    given, wanted = read_number(answer), read_number(truth)
    if given is not None and wanted is not None:
        return given == wanted
    if not symbolic or not _MATH.search(answer) or not _MATH.search(truth):
        return False
    return _CHECKER.equal(truth, answer)


def check_ground_truth(value: object) -> None:
    """Refuse a label that no answer can match.

    Raises:
        ValueError: naming the value and the remedy.
    """
    if not isinstance(value, str) or not normalise(value[: MAX_ANSWER_CHARS + 1]) or len(value) > MAX_ANSWER_CHARS:
        raise ValueError(
            f"ground_truth must be a text of 1 to {MAX_ANSWER_CHARS} characters, not {str(value)[:80]!r}: "
            "a policy row needs a short answer"
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
    **unused: Any,
) -> dict[str, Any]:
    """Reward of one answer; arguments and keys as in `preference.compute_score`.

    Args:
        symbolic: compare expressions by math-verify where text and numbers do not settle it.

    >>> compute_score("policy/digits", "<think>A closed loop below a bend.</think>\\\\boxed{6}", "6")["score"]
    1.0
    """
    if not 0.0 <= format_weight <= 1.0:
        raise ValueError(f"format_weight must lie in [0, 1], not {format_weight!r}")
    box = find_box(solution_str, prefilled=prefilled)
    label_ok = isinstance(ground_truth, str) and 0 < len(ground_truth) <= MAX_ANSWER_CHARS
    right = label_ok and box.content is not None and same_answer(box.content, ground_truth, symbolic=symbolic)
    acc = 1.0 if right else 0.0
    form = 1.0 if box.well_formed else 0.0
    return {
        "score": min(1.0, (1.0 - format_weight) * acc + format_weight * form),
        "acc": acc,
        "format": form,
        "pred": "" if box.content is None else normalise(box.content[:MAX_ANSWER_CHARS])[:MAX_VERDICT_CHARS],
        "reason": box.reason.value if label_ok else Reason.BAD_LABEL.value,
        "credit": acc,
        "penalty": 0.0,
        "thought_chars": box.thought_chars,
    }
