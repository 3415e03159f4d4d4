"""Labels, units and changes of the results table."""

import pytest

from recipe.critic_r1.report.run_files import Estimate, Evaluation
from recipe.critic_r1.report.tables import duration, flat, headlines, metric_groups, place_of


def evaluation(**metrics: tuple[float | None, float | None, float | None]) -> Evaluation:
    return Evaluation(
        metrics={
            name.replace("__", "/"): Estimate(value=value, low=low, high=high, n=10)
            for name, (value, low, high) in metrics.items()
        }
    )


@pytest.mark.parametrize(
    ("before", "after", "name", "change", "trend"),
    [
        ((0.5, 0.45, 0.55), (0.7, 0.65, 0.75), "critic__accuracy", "+20.0 points", "good"),
        ((0.7, 0.65, 0.75), (0.5, 0.45, 0.55), "critic__accuracy", "-20.0 points", "bad"),
        # Intervals that overlap show no direction, however large the change looks.
        ((0.5, 0.4, 0.6), (0.65, 0.55, 0.75), "critic__accuracy", "+15.0 points", ""),
        # Fewer unparsed answers are better.
        ((0.2, 0.15, 0.25), (0.05, 0.02, 0.08), "critic__parse_failures", "-15.0 points", "good"),
        # A bias is a number, not a share, and neither rise nor fall is good by itself.
        ((0.5, 0.4, 0.6), (0.1, 0.0, 0.2), "critic__position_bias", "-0.4", ""),
        ((0.5, None, None), (0.7, None, None), "critic__accuracy", "+20.0 points", ""),
        ((None, None, None), (0.7, 0.6, 0.8), "critic__accuracy", "", ""),
    ],
)
def test_change(
    before: tuple[float, float, float], after: tuple[float, float, float], name: str, change: str, trend: str
) -> None:
    groups = metric_groups({"before": evaluation(**{name: before}), "after": evaluation(**{name: after})})
    row = groups["As a critic"][0]
    assert (row.change, row.trend) == (change, trend)


def test_cells_print_their_unit() -> None:
    one = evaluation(
        critic__accuracy=(0.612, 0.58, 0.64),
        critic__position_bias=(-0.12, -0.2, 0.0),
        best_of_8__knock_out_minus_majority=(-0.031, -0.06, 0.004),
    )
    cells = {row.name: row.cells[0] for rows in metric_groups({"after": one}).values() for row in rows}
    assert [(cell.value, cell.interval, cell.n) for cell in cells.values() if cell] == [
        ("61.2 %", "58.0 to 64.0 %", "10"),
        ("-0.12", "-0.2 to 0", "10"),
        ("-3.1 points", "-6.0 to +0.4", "10"),
    ]
    assert [bool(cell and cell.bar) for cell in cells.values()] == [True, False, False]


def test_groups_come_in_reading_order_and_unlisted_figures_last() -> None:
    names = ("zebra", "best_of_8_other__oracle", "best_of_8__oracle", "policy__greedy", "critic__swap_consistency")
    groups = metric_groups({"after": evaluation(**dict.fromkeys(names, (0.5, 0.4, 0.6)))})
    assert list(groups) == [
        "As a critic",
        "As a policy",
        "Best of 8",
        "Best of 8, another policy's candidates",
        "Other figures",
    ]
    assert groups["Other figures"][0].meaning.label == "zebra"


def test_headlines_are_those_that_the_run_has() -> None:
    groups = metric_groups({"after": evaluation(policy__greedy=(0.5, 0.4, 0.6), critic__accuracy=(0.5, 0.4, 0.6))})
    assert [row.name for row in headlines(groups)] == ["critic/accuracy", "policy/greedy"]


def test_part_of_a_metric_keeps_its_unit_and_direction() -> None:
    meaning = place_of("critic/parse_failures/no_box")[3]
    assert (meaning.label, meaning.better, meaning.unit) == ("Unparsed: no_box", -1, "share")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (48.2, "48 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_settings_are_flattened_without_losing_empty_ones() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": None}) == [("a.b.c", "1"), ("a.d", "{}"), ("e", "–")]
