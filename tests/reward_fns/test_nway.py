"""The best of N, and rankings."""

import pytest

from reward_fns import nway

T = "<think>A reason.</think>"


@pytest.mark.parametrize(
    ("answer", "label", "acc", "credit"),
    [
        ("3", "3", 1.0, 1.0),
        ("2", "3", 0.0, 0.0),
        ("17", "3", 0.0, 0.0),
        ("2 > 1 > 3", "2 > 1 > 3", 1.0, 1.0),
        ("2,1,3", "2 > 1 > 3", 1.0, 1.0),
        ("2>1>3", "2 > 1 > 3", 1.0, 1.0),
        ("3 > 1 > 2", "2 > 1 > 3", 0.0, 0.0),
        ("2 > 3 > 1", "2 > 1 > 3", 0.0, 2 / 3),
        ("2 > 1 = 3", "2 > 3 = 1", 1.0, 1.0),  # the same order, written differently
        ("1 = 2 = 3", "2 > 1 > 3", 0.0, 0.0),  # tying everything earns nothing
        ("2 > 1", "2 > 1 > 3", 0.0, 0.0),  # not the same responses
        ("2 > 2 > 1", "2 > 1 > 3", 0.0, 0.0),
        ("1 > 2 > 4", "2 > 1 > 3", 0.0, 0.0),
        ("2", "2 > 1 > 3", 0.0, 0.0),  # a choice where a ranking is needed
        ("2 > 1", "2", 0.0, 0.0),
    ],
)
def test_score(answer: str, label: str, acc: float, credit: float) -> None:
    result = nway.compute_score("critic_nway/x", f"{T}\\boxed{{{answer}}}", label)
    assert (result["acc"], result["credit"]) == (acc, pytest.approx(credit))


def test_sixteen_responses_fit_a_verdict() -> None:
    order = " > ".join(map(str, range(16, 0, -1)))
    assert nway.compute_score("critic_nway/x", f"{T}\\boxed{{{order}}}", order)["score"] == 1.0
