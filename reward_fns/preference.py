"""The paper's reward: is the verdict the label, and does the response keep the form?

score = (1 - format_weight) * acc + format_weight * format, with format_weight = 0.1 (arXiv 2509.00676, section 3).

verl calls `compute_score` by keyword, from a thread pool and without a timeout. It takes the names of the logged values
from the first sample of a batch and loses a whole prompt group when one sample raises. So every path returns the same
keys with plain Python types, and nothing that a model writes makes it raise.
"""

from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING or __package__:
    from reward_fns.release import score_like_release
    from reward_fns.verdict import PAIR_CHOICES, Reason, parse_verdict
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    score_like_release = _sibling("release").score_like_release
    _verdict = _sibling("verdict")
    PAIR_CHOICES, Reason, parse_verdict = _verdict.PAIR_CHOICES, _verdict.Reason, _verdict.parse_verdict

FORMAT_WEIGHT = 0.1
"""Weight of the form in the reward (arXiv 2509.00676, section 3)."""


def check_ground_truth(value: object) -> None:
    """Refuse a label that this reward cannot compare with; for `prepare`, `validate` and `preflight`.

    Raises:
        ValueError: naming the value and the remedy.
    """
    if not isinstance(value, str) or value not in PAIR_CHOICES:
        raise ValueError(
            f"ground_truth must be one of the strings {', '.join(map(repr, PAIR_CHOICES))}, not {value!r}: "
            "convert the labels with `critic-r1 prepare`"
        )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    format_weight: float = FORMAT_WEIGHT,
    parsing: Literal["strict", "lenient"] = "strict",
    prefilled: bool = False,
    tie_credit: float = 0.0,
    max_thought_chars: int = 0,
    overlong_penalty: float = 0.1,
    release_compatible: bool = False,
    policy: Literal["strict", "lenient"] | None = None,
    **unused: Any,
) -> dict[str, Any]:
    """Reward of one pairwise judgement.

    Args:
        data_source: where the row comes from; not used.
        solution_str: the response of the model.
        ground_truth: "1", "2" or "tie".
        extra_info: the row's `extra_info`; not used.
        format_weight: weight of the form, in [0, 1].
        parsing: which verdicts count, see `verdict.parse_verdict`.
        prefilled: the chat template already wrote `<think>`.
        tie_credit: credit, in [0, 1), when exactly one of verdict and label is a tie: a near miss, not a reversal.
        max_thought_chars: longer thoughts (in characters) are penalised; 0 switches this off.
        overlong_penalty: largest penalty, in [0, 1]. It grows linearly from 0 at `max_thought_chars` to this value at
            twice that length. The score stays at 0 or above.
        release_compatible: `acc`, `format` and `score` are those of the public release (see release.py); `parsing`,
            `prefilled`, `tie_credit` and the length penalty do not apply.
        policy: former name of `parsing`.
        unused: verl's managers may pass more (`reward_router_address`, `reward_model_tokenizer`).

    Returns:
        score in [0, 1]; acc 0.0 or 1.0; format 0.0 or 1.0; pred: the choice, "" for none; reason: a
        `verdict.Reason` as string; credit: what the score counts for the verdict, acc or a partial credit; penalty:
        what the score lost; thought_chars: length of the thoughts.

    Raises:
        ValueError: for an option out of range, never for what a model wrote.

    >>> compute_score("critic/demo", "<think>I see a 7.</think>\\\\boxed{1}", "1")["score"]
    1.0
    >>> compute_score("critic/demo", "\\\\boxed{1}", "1")["score"]
    0.9
    """
    if not (0.0 <= format_weight <= 1.0 and 0.0 <= tie_credit < 1.0 and 0.0 <= overlong_penalty <= 1.0):
        raise ValueError(
            "format_weight and overlong_penalty must lie in [0, 1] and tie_credit in [0, 1): got "
            f"{format_weight!r}, {overlong_penalty!r}, {tie_credit!r}; see reward.custom_reward_function.reward_kwargs"
        )
    verdict = parse_verdict(solution_str, parsing=policy or parsing, prefilled=prefilled)
    label_ok = isinstance(ground_truth, str) and ground_truth in PAIR_CHOICES
    penalty = 0.0
    if release_compatible:
        acc, form = score_like_release(solution_str, ground_truth if label_ok else "")
        credit = acc
    else:
        acc = credit = 1.0 if label_ok and verdict.choice == ground_truth else 0.0
        form = 1.0 if verdict.well_formed else 0.0
        if tie_credit and label_ok and not acc and verdict.choice and "tie" in (verdict.choice, ground_truth):
            credit = tie_credit
        if 0 < max_thought_chars < verdict.thought_chars:
            penalty = overlong_penalty * min(1.0, verdict.thought_chars / max_thought_chars - 1.0)
    score = (1.0 - format_weight) * credit + format_weight * form
    return {
        "score": min(1.0, max(0.0, score - penalty)),
        "acc": acc,
        "format": form,
        "pred": verdict.choice or "",
        "reason": verdict.reason.value if label_ok else Reason.BAD_LABEL.value,
        "credit": credit,
        "penalty": penalty,
        "thought_chars": verdict.thought_chars,
    }
