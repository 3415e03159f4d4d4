"""Length bias and figures per category, with judges whose habits are known exactly."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.judging.metrics import CATEGORY_FIGURES, category_metrics, length_metrics
from recipe.critic_r1.judging.pairwise import REQUEST_FAILED, Judgement, JudgeTask

Said = Callable[..., Judgement]

ME_LONG, ME_SHORT = {"better": "a long one", "worse": "short"}, {"better": "short", "worse": "a long one"}
EQUAL = {"better": "one", "worse": "two"}


@pytest.fixture
def said(task: Callable[..., JudgeTask]) -> Said:
    """A judgement of a pair with given texts; `takes` is better, worse, longer, first, tie, None or error."""

    def build(name: str, order: int, takes: str | None, texts: dict[str, str], **changes: Any) -> Judgement:
        made = task(name, order, image=changes.pop("image", None))
        shown = [texts["better"], texts["worse"]] if made.ground_truth == "1" else [texts["worse"], texts["better"]]
        made = replace(made, response_1=shown[0], response_2=shown[1], **changes)
        wrong = "2" if made.ground_truth == "1" else "1"
        longer = "1" if len(shown[0]) > len(shown[1]) else "2"
        verdicts = {"better": made.ground_truth, "worse": wrong, "longer": longer, "first": "1", "tie": "tie"}
        if takes == "error":
            return Judgement(made, None, REQUEST_FAILED, 0.0, (), "", error="503")
        pred = None if takes is None else verdicts[takes]
        return Judgement(made, pred, "no_box" if pred is None else "ok", 1.0, (pred,), "")

    return build


def values(judgements: list[Judgement]) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in length_metrics(judgements).items()}


@pytest.mark.parametrize(
    ("takes", "bias", "taken", "when_longer", "when_shorter"),
    [
        pytest.param("better", 0, 0.25, 1, 1, id="knows"),
        pytest.param("worse", 0.5, 0.75, 0, 0, id="always wrong: three of four better ones are short"),
        pytest.param("longer", 0.75, 1, 1, 0, id="goes by length"),
        pytest.param("first", 0.25, 0.5, 0.5, 0.5, id="goes by place"),
        pytest.param("tie", None, None, 0, 0, id="never decides"),
        pytest.param(None, None, None, 0, 0, id="unreadable"),
        pytest.param("error", None, None, None, None, id="failed"),
    ],
)
def test_length(
    said: Said,
    takes: str | None,
    bias: float | None,
    taken: float | None,
    when_longer: float | None,
    when_shorter: float | None,
) -> None:
    """In one pair of four the better response is the longer one."""
    judgements = [said(f"p{i}", o, takes, ME_LONG if i % 4 == 0 else ME_SHORT) for i in range(8) for o in (0, 1)]
    assert values(judgements) == {
        "bias": bias,
        "longer_taken": taken,
        "longer_better": None if bias is None else 0.25,
        "accuracy_longer_better": when_longer,
        "accuracy_shorter_better": when_shorter,
    }


def test_equal_lengths_and_labelled_ties_say_nothing_about_length(said: Said) -> None:
    counted = [said("p", o, "longer", ME_SHORT) for o in (0, 1)]
    others = [said("q", o, "first", EQUAL) for o in (0, 1)]
    others += [said("r", o, "longer", ME_LONG, ground_truth="tie") for o in (0, 1)]
    assert length_metrics(counted + others)["bias"].n == 2
    assert values(counted + others) == values(counted)


def test_pairs_of_one_image_widen_the_interval(said: Said) -> None:
    """The same verdicts, once over 40 images and once over 5, each of which is judged one way throughout."""

    def width(images: int) -> float:
        judgements = [
            said(f"p{i}", o, "longer" if i % 5 < 2 else "better", ME_SHORT, image=f"{i % images}")
            for i in range(40)
            for o in (0, 1)
        ]
        estimate = length_metrics(judgements)["bias"]
        assert estimate.value == pytest.approx(0.4)
        assert estimate.low is not None
        assert estimate.high is not None
        return estimate.high - estimate.low

    assert width(5) > 2 * width(40)


def test_categories_have_their_own_figures(said: Said) -> None:
    judgements = [said(f"a{i}", o, "better", EQUAL, category="reasoning") for i in range(4) for o in (0, 1)]
    judgements += [said(f"b{i}", o, "first", EQUAL, category="general") for i in range(2) for o in (0, 1)]
    judgements += [said("b2", 0, None, EQUAL, category="general"), said("b2", 1, "error", EQUAL, category="general")]
    found = {name: (e.value, e.n) for name, e in category_metrics(judgements).items()}
    assert found == {
        "general/accuracy": (2 / 5, 5),
        "general/parse_failures": (1 / 5, 5),
        "general/accuracy_both_orders": (0, 2),
        "general/swap_consistency": (0, 2),
        "general/position_bias": (1, 2),
        "reasoning/accuracy": (1, 8),
        "reasoning/parse_failures": (0, 8),
        "reasoning/accuracy_both_orders": (1, 4),
        "reasoning/swap_consistency": (1, 4),
        "reasoning/position_bias": (0, 4),
    }
    assert len(found) == 2 * len(CATEGORY_FIGURES)


def test_one_category_is_no_grouping_and_one_order_gives_no_pairs(said: Said) -> None:
    assert category_metrics([said("p", o, "better", EQUAL, category="only") for o in (0, 1)]) == {}
    one_order = [said(name, 0, "better", EQUAL, category=name) for name in "pq"]
    assert set(category_metrics(one_order)) == {"p/accuracy", "p/parse_failures", "q/accuracy", "q/parse_failures"}
