"""Rewards for more than two responses: the best of N, or a full ranking.

The label decides which of the two a row asks for. `"3"` is the best of N: the verdict must name that response.
`"2 > 1 = 3"` is a ranking, best first: the verdict must rank the same responses, and earns Kendall's tau-b mapped from
[-1, 1] to [0, 1]. Tau-b (Kendall 1945) allows ties on both sides. A verdict that ties everything orders nothing and
earns nothing, so that a tie is never a safe bet. acc is 1 only for the same order, ties included.
"""

import re
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reward_fns.verdict import Reason, find_box, read_choice, unwrap
else:  # loaded by its path: by_path.py explains
    _verdict = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]("verdict")
    Reason, find_box = _verdict.Reason, _verdict.find_box
    read_choice, unwrap = _verdict.read_choice, _verdict.unwrap

MAX_RESPONSES = 16
"""Most responses in one row."""

MAX_RANKING_CHARS = 128
"""A longer box content is not a ranking; 16 responses with blanks around the signs take 68."""

_CHOICES = tuple(str(number) for number in range(1, MAX_RESPONSES + 1))
_RANKING = re.compile(r"[0-9]{1,2}(?:\s*[>=,]\s*[0-9]{1,2})+")


def read_ranking(content: str) -> dict[str, int] | None:
    """Response -> place (1 is best); None when the content does not rank the responses 1 to N, each once.

    `>` and `,` step down one place, `=` keeps it.

    >>> read_ranking("2 > 1 = 3")
    {'2': 1, '1': 2, '3': 2}
    """
    content = unwrap(content)
    if len(content) > MAX_RANKING_CHARS or not _RANKING.fullmatch(content):
        return None
    places: dict[str, int] = {}
    place = 1
    for token in re.findall(r"[0-9]+|[>=,]", content):
        if token in (">", ","):
            place += 1
        elif token != "=":
            if token in places:
                return None
            places[token] = place
    return places if sorted(places, key=lambda name: (len(name), name)) == list(_CHOICES[: len(places)]) else None


def kendall_tau_b(given: dict[str, int], label: dict[str, int]) -> float:
    """Kendall's tau-b of two rankings of the same responses, in [-1, 1]; 0 when one of them ties everything."""
    names = list(label)
    agreement = given_pairs = label_pairs = 0
    for i, a in enumerate(names):
        for b in names[:i]:
            x = (given[a] > given[b]) - (given[a] < given[b])
            y = (label[a] > label[b]) - (label[a] < label[b])
            agreement += x * y
            given_pairs += x * x
            label_pairs += y * y
    return agreement / (given_pairs * label_pairs) ** 0.5 if given_pairs and label_pairs else 0.0


def check_ground_truth(value: object) -> None:
    """Refuse a label that is neither the number of a response nor a ranking that orders something.

    Raises:
        ValueError: naming the value and the remedy.
    """
    ranking = read_ranking(value) if isinstance(value, str) else None
    if value not in _CHOICES and (ranking is None or len(set(ranking.values())) < 2):
        raise ValueError(
            f"ground_truth must be the number of the best response, '1' to '{MAX_RESPONSES}', or a ranking such as "
            f"'2 > 1 = 3' that does not tie everything, not {value!r}"
        )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    format_weight: float = 0.1,
    prefilled: bool = False,
    **unused: Any,
) -> dict[str, Any]:
    """Reward of one choice among N or of one ranking; arguments and keys as in `preference.compute_score`.

    Returns:
        as `preference.compute_score`; credit is (tau-b + 1) / 2 for a ranking that does not tie everything.

    >>> compute_score("critic/n", "<think>Three is best.</think>\\\\boxed{3}", "3")["score"]
    1.0
    >>> compute_score("critic/n", "<think>Hm.</think>\\\\boxed{2 > 3 > 1}", "2 > 1 > 3")["credit"]
    0.6666666666666666
    """
    if not 0.0 <= format_weight <= 1.0:
        raise ValueError(f"format_weight must lie in [0, 1], not {format_weight!r}")
    box = find_box(solution_str, prefilled=prefilled)
    acc = credit = 0.0
    pred = ""
    try:
        check_ground_truth(ground_truth)
        label_ok = True
    except ValueError:
        label_ok = False
    if label_ok and box.content is not None:
        label = read_ranking(ground_truth)
        if label is None:
            pred = read_choice(box.content, _CHOICES) or ""
            acc = credit = float(pred == ground_truth)
        else:
            given = read_ranking(box.content)
            if given is not None and len(given) == len(label):
                pred = unwrap(box.content)
                tau = kendall_tau_b(given, label)
                # The same order, ties included, is exactly 1: tau may be rounded below.
                acc = float(all(_order(given, a, b) == _order(label, a, b) for a in label for b in label))
                orders = len(set(given.values())) > 1
                credit = 1.0 if acc else (tau + 1.0) / 2.0 if orders else 0.0
    form = 1.0 if pred and box.well_formed else 0.0
    reason = Reason.NOT_A_CHOICE if box.content is not None and not pred else box.reason
    return {
        "score": min(1.0, max(0.0, (1.0 - format_weight) * credit + format_weight * form)),
        "acc": acc,
        "format": form,
        "pred": pred,
        "reason": reason.value if label_ok else Reason.BAD_LABEL.value,
        "credit": credit,
        "penalty": 0.0,
        "thought_chars": box.thought_chars,
    }


def _order(places: dict[str, int], a: str, b: str) -> int:
    return (places[a] > places[b]) - (places[a] < places[b])
