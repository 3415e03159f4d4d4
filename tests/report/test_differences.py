"""Changes and their intervals, and which runs may be compared at all."""

import random
from pathlib import Path

import pytest

from recipe.critic_r1.judging.comparison import compare
from recipe.critic_r1.judging.intervals import wilson
from recipe.critic_r1.report.comparisons import make_boards
from recipe.critic_r1.report.differences import differences, newcombe
from recipe.critic_r1.report.records import JudgementLine, MetricValue, ResultFile
from recipe.critic_r1.report.run_files import Measured, Run, read_run
from tests.report.made_judge import benchmark, judgements, make_best_of_n, make_judge_run, make_policy_run


def proportion(successes: int, n: int) -> MetricValue:
    low, high = wilson(successes, n)
    return MetricValue(value=successes / n, low=low, high=high, n=n)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # R. G. Newcombe (1998), Statistics in Medicine 17, table II, method 10, second minus first.
    [
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((0, 29), (5, 56), -0.0381, 0.1926),
    ],
)
def test_interval_of_a_change_from_two_intervals(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    change = newcombe(proportion(*first), proportion(*second))
    assert change is not None
    assert change.value == pytest.approx(second[0] / second[1] - first[0] / first[1])
    assert (change.low, change.high) == pytest.approx((low, high), abs=1e-3)


def measured(skill: float, seed: int, **figures: float) -> Measured:
    run = Measured("benchmark", "", _evaluation(**figures))
    run.judgements = [JudgementLine.model_validate(one.record()) for one in judgements(LISTED, skill, seed)]
    return run


def _evaluation(**figures: float) -> ResultFile:
    names = {name.replace("__", "/"): value for name, value in figures.items()}
    return ResultFile(metrics={n: MetricValue(value=v, low=v - 0.1, high=v + 0.1, n=9) for n, v in names.items()})


LISTED = benchmark(60)


def test_what_was_judged_by_both_is_compared_pair_by_pair() -> None:
    figures = {"critic__accuracy": 0.5, "official__overall": 0.5, "official__macro": 0.5, "critic__format_rate": 0.9}
    first, second = measured(0.6, 1, **figures), measured(0.8, 2, **figures)
    changes, duel, why_not = differences(first, second)
    expected = compare(judgements(LISTED, 0.6, 1), judgements(LISTED, 0.8, 2))
    truth = expected.figures["accuracy"].difference
    for name in ("critic/accuracy", "official/overall"):
        assert (changes[name].value, changes[name].low, changes[name].high) == (truth.value, truth.low, truth.high)
        assert changes[name].paired
    # No answer stands behind the macro figure alone, so its two intervals must do.
    assert not changes["official/macro"].paired
    assert why_not == ""
    assert duel is not None
    assert (duel["only_first"], duel["only_second"], duel["p_value"]) == (
        expected.only_first,
        expected.only_second,
        expected.p_value,
    )


def test_lines_without_their_form_compare_without_it() -> None:
    first, second = measured(0.6, 1, critic__format_rate=0.9), measured(0.8, 2, critic__format_rate=0.9)
    second.judgements[3].well_formed = None
    changes, _, _ = differences(first, second)
    assert not changes["critic/format_rate"].paired


def test_other_labels_are_no_comparison_and_said() -> None:
    first, second = measured(0.6, 1, critic__accuracy=0.6), measured(0.6, 1, critic__accuracy=0.7)
    second.judgements[0].ground_truth = {"1": "2", "2": "1"}[second.judgements[0].ground_truth]
    changes, duel, why_not = differences(first, second)
    assert not changes["critic/accuracy"].paired
    assert duel is None
    assert "different labels for 1 of 120 items" in why_not


def test_judgements_without_an_order_are_no_comparison() -> None:
    first, second = measured(0.6, 1, critic__accuracy=0.6), measured(0.6, 1, critic__accuracy=0.7)
    second.judgements[0].order = ""
    assert differences(first, second)[1:] == (None, f"the judgement of pair {LISTED[0].pair.pair_id} has no order")


def test_only_the_same_items_share_a_board(tmp_path: Path) -> None:
    listed = benchmark(12)
    shuffled = random.Random(1).sample(listed, len(listed))
    folders = [
        make_judge_run(tmp_path / "a", listed, 0.5, 1),
        make_judge_run(tmp_path / "b", shuffled, 0.9, 2),
        make_judge_run(tmp_path / "c", listed[2:], 0.9, 2),
        make_best_of_n(tmp_path / "d", 0.01),
        make_best_of_n(tmp_path / "e", 0.02, questions=7),
        make_policy_run(tmp_path / "f", 0.0),
        make_policy_run(tmp_path / "g", 0.1),
    ]
    boards = make_boards([read_run(folder) for folder in folders])
    assert [[column.label for column in board.columns] for board in boards] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
        ["f", "g"],
    ]
    based = {column.label: column.base.label for board in boards for column in board.columns if column.base}
    assert based == {"b": "a", "g": "f"}


def test_training_runs_count_from_their_own_start() -> None:
    runs = []
    for name in ("one", "two"):
        run = Run(Path(name), name)
        run.measured = [
            Measured("held-out", stage, _evaluation(critic__accuracy=value))
            for stage, value in (("before", 0.5), ("after", 0.9))
        ]
        runs.append(run)
    (board,) = make_boards(runs)
    assert [column.label for column in board.columns] == ["one · before", "one · after", "two · before", "two · after"]
    assert [column.base and column.base.label for column in board.columns] == [
        None,
        "one · before",
        None,
        "two · before",
    ]


def test_a_policy_figure_on_other_questions_is_not_compared(tmp_path: Path) -> None:
    first, second = (read_run(make_policy_run(tmp_path / name, 0.1)).measured[0] for name in "ab")
    second.evaluation.metrics["policy/chart/made_qa"].n = 150
    changes, _, _ = differences(first, second)
    assert list(changes) == ["policy/general/made_score", "policy/mean"]
