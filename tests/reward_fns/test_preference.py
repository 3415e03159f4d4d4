"""The paper's reward: amounts, options, labels, and what it must survive."""

from typing import Any

import pytest

from reward_fns.preference import check_ground_truth, compute_score
from tests.reward_fns.verdict_cases import ILL_FORMED, NO_CHOICE, OK, T

KEYS = ["score", "acc", "format", "pred", "reason", "credit", "penalty", "thought_chars"]


def score(text: Any, label: Any, **options: Any) -> dict[str, Any]:
    return compute_score("critic/test", text, label, {"index": 0}, **options)


@pytest.mark.parametrize(
    ("text", "label", "options", "expected"),
    [
        (T + "\\boxed{1}", "1", {}, 1.0),
        (T + "\\boxed{1}", "2", {}, 0.1),
        ("\\boxed{1}", "1", {}, 0.9),
        ("\\boxed{1}", "2", {}, 0.0),
        (T + "\\boxed{3}", "1", {}, 0.0),  # the form includes a verdict
        (T + "\\boxed{1}", "1", {"format_weight": 0.0}, 1.0),
        ("\\boxed{1}", "1", {"format_weight": 0.0}, 1.0),
        ("\\boxed{1}", "1", {"format_weight": 1.0}, 0.0),
        (T + "\\boxed{2}", "1", {"format_weight": 0.5}, 0.5),
        (T + "\\boxed{1}", "1", {"format_weight": 0.3}, 1.0),
        (T + "\\boxed{tie}", "tie", {}, 1.0),
        (T + "\\boxed{tie}", "1", {}, 0.1),
        (T + "\\boxed{tie}", "1", {"tie_credit": 0.5}, 0.55),
        (T + "\\boxed{2}", "tie", {"tie_credit": 0.5}, 0.55),
        (T + "\\boxed{2}", "1", {"tie_credit": 0.5}, 0.1),  # a reversal is not a near miss
        (T, "tie", {"tie_credit": 0.5}, 0.0),
        (T + "\\boxed{Response 1}", "1", {}, 0.0),
        (T + "\\boxed{Response 1}", "1", {"parsing": "lenient"}, 0.9),
        (T + "\\boxed{Response 1}", "1", {"policy": "lenient"}, 0.9),  # the former name
        ("The first.</think>\\boxed{1}", "1", {"prefilled": True}, 1.0),
        ("<think>" + "x" * 100 + "</think>\\boxed{1}", "1", {"max_thought_chars": 100}, 1.0),
        ("<think>" + "x" * 150 + "</think>\\boxed{1}", "1", {"max_thought_chars": 100}, 0.95),
        ("<think>" + "x" * 900 + "</think>\\boxed{1}", "1", {"max_thought_chars": 100}, 0.9),
        ("<think>" + "x" * 900 + "</think>\\boxed{1}", "1", {"max_thought_chars": 100, "overlong_penalty": 0.4}, 0.6),
        ("<think>" + "x" * 900 + "</think>\\boxed{1}", "2", {"max_thought_chars": 100, "overlong_penalty": 0.4}, 0.0),
        (T + "\\boxed{2} no wait \\boxed{1}", "1", {"release_compatible": True}, 1.0),
        ("<think>\\boxed{1}</think>", "1", {"release_compatible": True}, 0.9),
        (T + "\\boxed{Response 1}", "1", {"release_compatible": True}, 0.1),
    ],
)
def test_score(text: str, label: str, options: dict[str, Any], expected: float) -> None:
    assert score(text, label, **options)["score"] == pytest.approx(expected, abs=1e-12)


CASES = [case[1] for case in (*OK, *ILL_FORMED, *NO_CHOICE)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"release_compatible": True}, marks=pytest.mark.slow),
        pytest.param({"parsing": "lenient", "tie_credit": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_every_path_returns_the_same_keys_and_plain_types(options: dict[str, Any]) -> None:
    for text in CASES:
        long = isinstance(text, str) and len(text) > 10_000
        for label in ("1",) if long else ("1", "tie", None, 1, "", "3"):
            result = score(text, label, **options)
            assert list(result) == KEYS
            assert [type(value) for value in result.values()] == [float, float, float, str, str, float, float, int]
            assert 0.0 <= result["score"] <= 1.0


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.1, 0.3, 0.7, 1.0])
def test_gold_is_exactly_one(weight: float) -> None:
    for label in ("1", "2", "tie"):
        assert score(f"{T}\\boxed{{{label}}}", label, format_weight=weight)["score"] == 1.0


@pytest.mark.parametrize("label", [None, 1, 1.0, "", "3", "Tie", " 1", "first", b"1", ["1"], float("nan")])
def test_a_malformed_label_is_refused_early_and_never_raises_in_training(label: Any) -> None:
    with pytest.raises(ValueError, match="'1', '2', 'tie'"):
        check_ground_truth(label)
    result = score(T + "\\boxed{1}", label)
    assert (result["acc"], result["reason"]) == (0.0, "bad_label")


@pytest.mark.parametrize("label", ["1", "2", "tie"])
def test_good_labels(label: str) -> None:
    check_ground_truth(label)


@pytest.mark.parametrize(
    "options", [{"format_weight": 1.1}, {"format_weight": -0.1}, {"tie_credit": 1.0}, {"overlong_penalty": 2.0},
                {"format_weight": float("nan")}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="format_weight"):
        score(T, "1", **options)


def test_what_managers_pass_along_is_ignored() -> None:
    extra = {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": None, "anything": 1}
    assert score(T + "\\boxed{1}", "1", **extra) == score(T + "\\boxed{1}", "1")
