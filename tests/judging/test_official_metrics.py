"""Official figures, on judgements made by hand."""

from typing import Any

import pytest

from recipe.critic_r1.judging.official_metrics import official_metrics


def test_groups_overall_and_macro(said: Any) -> None:
    """Two groups of different size: overall follows the rows, macro the groups; unreadable is not right."""
    judgements = [said(f"a{i}", o, i < 6, "hallucination") for i in range(8) for o in (0, 1)]
    judgements += [said(f"b{i}", o, None if i else True, "reasoning") for i in range(2) for o in (0, 1)]
    metrics = official_metrics(judgements)
    assert metrics["category/hallucination"].value == 0.75
    assert metrics["category/reasoning"].value == 0.5
    assert metrics["overall"].value == pytest.approx(14 / 20)
    assert metrics["macro"].value == pytest.approx((0.75 + 0.5) / 2)
    assert metrics["macro"].low < metrics["macro"].value < metrics["macro"].high  # type: ignore[operator]
    assert "acc_plus" not in metrics


def test_failed_requests_are_left_out(said: Any) -> None:
    metrics = official_metrics([said("a", 0, True), said("a", 1, "error"), said("b", 0, False), said("b", 1, True)])
    assert (metrics["overall"].value, metrics["overall"].n) == pytest.approx((2 / 3, 3))
    with pytest.raises(ValueError, match="no judgements"):
        official_metrics([])


def test_acc_plus_wants_every_pair_of_a_prompt(said: Any) -> None:
    """Prompt x: all right in order 0, one wrong in order 1. Prompt y: one wrong in both. Prompt z: a failure."""
    judgements = [said(f"x{i}", o, not (i == 2 and o == 1), group="x") for i in range(3) for o in (0, 1)]
    judgements += [said(f"y{i}", o, i > 0, group="y") for i in range(3) for o in (0, 1)]
    judgements += [said(f"z{i}", o, "error" if i == 0 else True, group="z") for i in range(2) for o in (0, 1)]
    metrics = official_metrics(judgements)
    assert (metrics["acc_plus"].value, metrics["acc_plus"].n) == (0.25, 4)


def test_the_habit_of_a_first_place_judge_is_no_skill(said: Any) -> None:
    """Always the first place: a script that shows the chosen answer first reports 100 %, this reports 50 %."""
    judgements = [said(f"p{i}", o, o == 0) for i in range(50) for o in (0, 1)]
    assert official_metrics(judgements)["overall"].value == 0.5
