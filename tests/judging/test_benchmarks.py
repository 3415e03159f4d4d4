"""Official figures and comparisons, on judgements made by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.judging.benchmarks import compare, official_metrics
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.pairwise import REQUEST_FAILED, Judgement, JudgeTask


@pytest.fixture
def said(task: Callable[..., JudgeTask]) -> Callable[..., Judgement]:
    """A judgement of pair `name` in an order: right, wrong, unreadable (None), or failed ("error")."""

    def build(name: str, order: int, right: Any, category: str = "", group: str = "") -> Judgement:
        made = replace(task(name, order), category=category, group=group or name)
        if right == "error":
            return Judgement(made, None, REQUEST_FAILED, 0.0, (), "", error="503")
        wrong = "2" if made.ground_truth == "1" else "1"
        pred = None if right is None else made.ground_truth if right else wrong
        return Judgement(made, pred, "no_box" if pred is None else "ok", 1.0, (pred,), "")

    return build


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
    assert (metrics["overall"].value, metrics["overall"].n) == (pytest.approx(2 / 3), 3)
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


def test_a_better_judge_is_found_better(said: Any) -> None:
    first = [said(f"p{i}", o, i < 50) for i in range(100) for o in (0, 1)]
    second = [said(f"p{i}", o, i < 70) for i in range(100) for o in (0, 1)]
    result = compare(first, second)
    difference = result["accuracy_difference"]
    assert isinstance(difference, Estimate)
    assert difference.value == pytest.approx(0.2)
    assert difference.low is not None
    assert difference.low > 0.1
    assert (result["only_first"], result["only_second"], result["pairs"]) == (0, 20, 100)
    assert result["p_value"] == pytest.approx(2 * 0.5**20)


def test_equal_judges_and_disjoint_runs(said: Any) -> None:
    run = [said(f"p{i}", o, bool(i % 2)) for i in range(10) for o in (0, 1)]
    assert compare(run, run)["p_value"] == 1.0
    with pytest.raises(ValueError, match="share no pair"):
        compare(run, [said("other", o, True) for o in (0, 1)])


def test_only_pairs_that_both_answered_are_compared(said: Any) -> None:
    first = [said(f"p{i}", o, True) for i in range(10) for o in (0, 1)]
    second = [said(f"p{i}", o, "error" if i < 4 and o else True) for i in range(10) for o in (0, 1)]
    assert compare(first, second)["pairs"] == 6
