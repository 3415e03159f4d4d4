"""What all rewards share: the keys they return, their types, the range of the score, and the check of labels."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from reward_fns import answer, nway, pointwise, preference

T = "<think>A reason.</think>"
HOSTILE = [
    "", None, 3, "<think>", T, T + "\\boxed{", T + "\\boxed{" + "9" * 100_000 + "}", "\x00", "\ud800",
    T + "\\boxed{" + "{}" * 50_000 + "}", T + "\\boxed{1e999999999}", T + "\\boxed{٣}", T + "\\boxed{²}",
    T + "\\boxed{1/0}",
]  # fmt: skip


@pytest.mark.parametrize("reward", [pointwise, nway, answer], ids=lambda module: module.__name__)
@pytest.mark.parametrize("label", ["1", "", None, "nan", "1 = 2"])
def test_hostile_responses_and_labels(reward: ModuleType, label: Any) -> None:
    keys = list(preference.compute_score("critic/x", "", "1"))
    for text in HOSTILE:
        result = reward.compute_score("x", text, label)
        assert list(result) == keys
        assert 0.0 <= result["score"] <= 0.1 + 0.9 * result["credit"]
        assert {type(value) for value in result.values()} == {float, str, int}


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (pointwise.check_ground_truth, ["0", "7.5", "10"], ["11", "-1", "seven", "", 7, None, "nan"]),
        (nway.check_ground_truth, ["1", "16", "2 > 1", "1 = 2 > 3"], ["0", "17", "1 = 2", "2 > 3", "", 1, None, ["1"]]),
        (answer.check_ground_truth, ["7", "a dog", "\\frac{1}{2}"], ["", "  ", "$$", "x" * 257, 7, None]),
    ],
)
def test_labels(check: Callable[[object], None], good: list[object], bad: list[object]) -> None:
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match="ground_truth must be"):
            check(value)
