"""A verdict whose thoughts are a chain of parts that ends with a score for each response.

The chains, each asked for by the template of the same name in `data_prep.tasks.prompts`, in our words:

    grounded  observations, claims, verification, evaluation, scores (MJ1, arXiv 2603.07990)
    rubric    a rubric for the question, an evaluation by it, scores (the chain of rubrics of RM-R1, arXiv 2505.02387)
    scores    any thoughts, then scores (the pairwise judge with scores of J1, arXiv 2505.10320)

Each part has a heading at the start of a line, once, in this order, with text after it. The last part scores both
responses from 0 to 10, and the difference of the scores is the verdict: a box that says otherwise breaks the chain.

    score = (1 - chain_weight) * reward of preference.py + chain_weight * (1 for an unbroken chain, else 0)

Only the form is checked, in linear time: whether the observations are true is what the label is for. So a chain pays
nothing where the verdict is wrong, unless `right_only` is off.
"""

import re
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING or __package__:
    from reward_fns import preference
    from reward_fns.verdict import find_box
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    preference = _sibling("preference")
    find_box = _sibling("verdict").find_box

CHAIN_WEIGHT = 0.1
"""Weight of the chain in the reward; ours, not the papers'."""

PARTS = ("Observations:", "Claims:", "Verification:", "Evaluation:", "Scores:")
"""Headings of the chain `grounded`."""

CHAINS = {"grounded": PARTS, "rubric": ("Rubric:", "Evaluation:", "Scores:"), "scores": ("Scores:",)}
"""Headings of each chain in their order; the template of the same name names the same."""

# At most three digits before and two after the point, and few blanks: each match is tried in constant time.
_SCORE = re.compile(r"Response ([12]): {0,3}([0-9]{1,3}(?:\.[0-9]{1,2})?)(?![\d.]*\d)")

check_ground_truth = preference.check_ground_truth


def read_chain(thoughts: str, parts: tuple[str, ...] = PARTS) -> tuple[str, tuple[float, float] | None]:
    """Why a chain is broken, or `ok` with the two scores.

    Args:
        parts: a value of `CHAINS`.

    Returns:
        `ok`, `missing_part`, `repeated_part`, `unordered_parts`, `empty_part`, or `no_scores` for a last part that does
        not give each response one number from 0 to 10.

    >>> parts = ["Observations: a", "Claims: b", "Verification: c", "Evaluation: d"]
    >>> read_chain("\\n".join([*parts, "Scores: Response 1: 8, Response 2: 3"]))
    ('ok', (8.0, 3.0))
    >>> read_chain("Observations: a")
    ('missing_part', None)
    """
    text = "\n" + thoughts
    places = [text.find(f"\n{part}") for part in parts]
    if min(places) < 0:
        return "missing_part", None
    if any(text.count(f"\n{part}") > 1 for part in parts):
        return "repeated_part", None
    if places != sorted(places):
        return "unordered_parts", None
    starts = [place + 1 + len(part) for place, part in zip(places, parts, strict=True)]
    bodies = [text[start:end].strip() for start, end in zip(starts, [*places[1:], len(text)], strict=True)]
    if not all(bodies):
        return "empty_part", None
    found = _SCORE.findall(bodies[-1])
    scores = {which: float(value) for which, value in found}
    if len(found) != 2 or len(scores) != 2 or max(scores.values()) > 10:
        return "no_scores", None
    return "ok", (scores["1"], scores["2"])


def gold_thoughts(ground_truth: str, *, chain: str = "grounded", **options: Any) -> str:
    """The shortest unbroken chain whose scores agree with a label; `critic-r1 preflight` scores it.

    >>> gold_thoughts("2", chain="scores")
    'Scores: Response 1: 0, Response 2: 1'
    """
    scores = f"Response 1: {int(ground_truth == '1')}, Response 2: {int(ground_truth == '2')}"
    *parts, last = CHAINS[chain]
    return "\n".join([*(f"{part} ..." for part in parts), f"{last} {scores}"])


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    chain: Literal["grounded", "rubric", "scores"] = "grounded",
    chain_weight: float = CHAIN_WEIGHT,
    right_only: bool = True,
    prefilled: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Reward of one pairwise judgement with a chain in its thoughts.

    Args:
        data_source, solution_str, ground_truth, extra_info, prefilled, options: see `preference.compute_score`.
        chain: which of `CHAINS` the prompt asks for.
        chain_weight: weight of the chain, in [0, 1].
        right_only: whether a chain counts for right verdicts only.

    Returns:
        What `preference.compute_score` returns, with `chain`, 1.0 or 0.0, and `chain_reason`, which is one of
        `read_chain` or `scores_disagree`.

    Raises:
        ValueError: for an option out of range, never for what a model wrote.
    """
    if chain not in CHAINS or not 0.0 <= chain_weight <= 1.0:
        raise ValueError(
            f"chain must be one of {', '.join(CHAINS)} and chain_weight lie in [0, 1]: got {chain!r}, {chain_weight!r};"
            " see reward.custom_reward_function.reward_kwargs"
        )
    found = preference.compute_score(
        data_source, solution_str, ground_truth, extra_info, prefilled=prefilled, **options
    )
    reason, scores = "missing_part", None
    if isinstance(solution_str, str):
        box = find_box(solution_str, prefilled=prefilled)
        thoughts = solution_str[: box.answer_start].rpartition("</think>")[0].rpartition("<think>")[2]
        reason, scores = read_chain(thoughts, CHAINS[chain])
    if scores is not None:
        difference = scores[0] - scores[1]
        said = "tie" if difference == 0 else "1" if difference > 0 else "2"
        reason = reason if said == found["pred"] else "scores_disagree"
    whole = 1.0 if reason == "ok" else 0.0
    counted = whole if found["acc"] or not right_only else 0.0
    score = (1.0 - chain_weight) * found["score"] + chain_weight * counted
    return {**found, "score": score, "chain": whole, "chain_reason": reason}
