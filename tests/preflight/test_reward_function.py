"""A reward that does not load, does not take its options, or does not pay the right answer."""

from pathlib import Path

import pytest

from recipe.critic_r1 import preflight
from recipe.critic_r1.preflight import reward_function
from tests.preflight.conftest import KWARGS, Run, demo, every_refusal_was_made, rows, write

FUNCTION = "reward.custom_reward_function"
MIXED = {"ablation": "critic_and_policy"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"{KWARGS}.format_wieght": "0.2"}, "no option format_wieght; did you mean format_weight"),
        ({f"{KWARGS}.format_weight": "2"}, r"format_weight .* must lie in \[0, 1\]"),
        (MIXED | {f"{KWARGS}.answer.symbolc": "false"}, "no option answer.symbolc; did you mean symbolic"),
        (MIXED | {f"{KWARGS}.tie_credit": "0.3"}, "no option tie_credit"),
        ({f"{FUNCTION}.name": "compute_scores"}, "compute_scores does not load .AttributeError"),
    ],
)
def test_options_that_it_does_not_take_are_named(run: Run, changed: dict[str, str], said: str) -> None:
    run.speaks(reward_function.options, changed, "fail", said)


def test_a_reward_that_does_not_fit_the_rows_is_named(good: dict[str, str], tmp_path: Path) -> None:
    records = [{**row, "data_source": "somewhere/else"} for row in rows(32)]
    good["data.train_files"] = write(tmp_path / "foreign.parquet", records)
    preflight.check(demo(good))
    good[f"{FUNCTION}.path"] = "pkg://reward_fns.mixed"
    said = r"the gold answer of 32 of 32 rows earns less than 1, e\.g\. row 0 \(somewhere/else"
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(demo(good))


def test_rows_that_another_reward_is_for_are_a_warning_when_some_are_paid(good: dict[str, str], tmp_path: Path) -> None:
    records = [{**row, "data_source": "somewhere/else"} for row in rows(8)] + rows(24)
    good["data.train_files"] = write(tmp_path / "some.parquet", records)
    good[f"{FUNCTION}.path"] = "pkg://reward_fns.mixed"
    (found,) = reward_function.gold(demo(good))
    assert (found.status, "8 of 32 rows earns less than 1" in found.detail) == ("warn", True)


def test_a_reward_that_raises_is_named(good: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own_reward.py"
    own.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1 / len('')\n"
    )
    good[f"{FUNCTION}.path"] = str(own)
    with pytest.raises(
        preflight.PreflightError, match=r"row 0: the reward raises on the gold answer .ZeroDivisionError"
    ):
        preflight.check(demo(good))
    assert "loses the whole group" in next(reward_function.options(demo(good))).detail


def test_an_option_that_a_foreign_reward_lacks_is_named(good: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own_reward.py"
    own.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, bonus=0):\n    return 1\n"
    )
    good[f"{FUNCTION}.path"] = str(own)
    preflight.check(demo(good | {f"{KWARGS}.bonus": "1"}))
    with pytest.raises(preflight.PreflightError, match="no option bonuss; did you mean bonus"):
        preflight.check(demo(good | {f"{KWARGS}.bonuss": "1"}))


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "reward_function.py")
