"""Rewards for score tasks: the critic reads one response and rates it, as in the pointwise part of llava-critic-113k.

A near miss on the scale earns more than a far one. `shape` says how much:

    exact      1 for the same number, 0 otherwise
    linear     1 - distance / length of the scale
    quadratic  (1 - distance / length of the scale) squared: sharper, so that always answering the middle earns less

A number off the scale is not an answer. Everything else is as in preference.py.
"""

import re
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING or __package__:
    from reward_fns.verdict import Reason, find_box, unwrap
else:  # loaded by its path: by_path.py explains
    _verdict = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]("verdict")
    Reason, find_box, unwrap = _verdict.Reason, _verdict.find_box, _verdict.unwrap

SCALE = (0.0, 10.0)
"""Default scale. The pointwise part of llava-critic-113k mixes scales; give the one of the row's source."""

EXACT = 1e-6
"""Numbers closer than this are the same number."""

# At most six digits on each side: more than any scale needs, and fast to read.
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}(?:\.[0-9]{0,6})?")


def read_score(content: str, scale: tuple[float, float] = SCALE) -> float | None:
    """The number in a box; None when there is none or it is off the scale. `8/10` is 8 when 10 is the top of the scale.

    >>> [read_score(c) for c in ("7", "7.5", "8/10", "11", "8/5", "seven")]
    [7.0, 7.5, 8.0, None, None, None]
    """
    number, slash, top = unwrap(content).partition("/")
    number, top = number.strip(), top.strip()
    if not _NUMBER.fullmatch(number):
        return None
    if slash and not (_NUMBER.fullmatch(top) and float(top) == scale[1]):
        return None
    value = float(number)
    return value if scale[0] <= value <= scale[1] else None


def check_ground_truth(value: object, scale: tuple[float, float] = SCALE) -> None:
    """Refuse a label that is not the text of a number on the scale.

    Raises:
        ValueError: naming the value and the remedy.
    """
    if not isinstance(value, str) or read_score(value, scale) is None:
        raise ValueError(
            f"ground_truth must be the text of a number from {scale[0]:g} to {scale[1]:g}, not {value!r}: "
            "correct the label, or give the scale of this source"
        )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    format_weight: float = 0.1,
    shape: Literal["exact", "linear", "quadratic"] = "linear",
    low: float = SCALE[0],
    high: float = SCALE[1],
    prefilled: bool = False,
    **unused: Any,
) -> dict[str, Any]:
    """Reward of one score; arguments and keys as in `preference.compute_score`.

    Args:
        shape: what the distance to the label earns, see above.
        low, high: the scale.

    Returns:
        as `preference.compute_score`; acc is 1.0 for the exact number, credit is the shaped value, pred the number.

    >>> round(compute_score("critic/scores", "<think>Fair.</think>\\\\boxed{6}", "8")["score"], 3)
    0.82
    """
    if not (0.0 <= format_weight <= 1.0 and low < high and shape in ("exact", "linear", "quadratic")):
        raise ValueError(
            f"format_weight must lie in [0, 1], low below high, shape be exact, linear or quadratic: got "
            f"{format_weight!r}, {low!r}, {high!r}, {shape!r}"
        )
    scale = (float(low), float(high))
    box = find_box(solution_str, prefilled=prefilled)
    given = None if box.content is None else read_score(box.content, scale)
    label = read_score(ground_truth, scale) if isinstance(ground_truth, str) else None
    form = 1.0 if given is not None and box.well_formed else 0.0
    acc = credit = 0.0
    if given is not None and label is not None:
        distance = abs(given - label)
        acc = 1.0 if distance < EXACT else 0.0
        near = 1.0 - distance / (scale[1] - scale[0])
        credit = acc if acc or shape == "exact" else near if shape == "linear" else near * near
    reason = Reason.NOT_A_CHOICE if box.content is not None and given is None else box.reason
    return {
        "score": min(1.0, (1.0 - format_weight) * credit + format_weight * form),
        "acc": acc,
        "format": form,
        "pred": "" if given is None else f"{given:g}",
        "reason": Reason.BAD_LABEL.value if label is None else reason.value,
        "credit": credit,
        "penalty": 0.0,
        "thought_chars": box.thought_chars,
    }
