"""Labels, units, intervals and changes of the tables."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from recipe.critic_r1.report.charts import duration
from recipe.critic_r1.report.comparisons import Board, make_boards
from recipe.critic_r1.report.metric_labels import place_of
from recipe.critic_r1.report.records import MetricValue, ResultFile, RunInfo
from recipe.critic_r1.report.run_files import Kind, Measured, Run
from recipe.critic_r1.report.run_settings import flat
from recipe.critic_r1.report.tables import category_tables, headlines, metric_groups

Figure = tuple[float | None, float | None, float | None]


def board(*columns: Mapping[str, Figure], kind: Kind = "held-out") -> Board:
    """Columns of one run, in order."""
    run = Run(Path("run"), "run")
    for name, metrics in zip(("before", "after"), columns, strict=False):
        estimates = {key: MetricValue(value=v, low=low, high=high, n=10) for key, (v, low, high) in metrics.items()}
        run.measured.append(Measured(kind, name, ResultFile(metrics=estimates), items="same"))
    return make_boards([run])[0]


@pytest.mark.parametrize(
    ("before", "after", "name", "change", "interval", "trend", "word"),
    [
        ((0.5, 0.45, 0.55), (0.7, 0.65, 0.75), "critic/accuracy", "+20.0 points", "+12.9 to +27.1", "good", "better"),
        ((0.7, 0.65, 0.75), (0.5, 0.45, 0.55), "critic/accuracy", "-20.0 points", "-27.1 to -12.9", "bad", "worse"),
        # Two intervals that touch can still leave no doubt, and such that overlap widely cannot.
        ((0.5, 0.4, 0.6), (0.65, 0.55, 0.75), "critic/accuracy", "+15.0 points", "+0.9 to +29.1", "good", "better"),
        ((0.5, 0.4, 0.6), (0.6, 0.5, 0.7), "critic/accuracy", "+10.0 points", "-4.1 to +24.1", "", "no clear change"),
        # Fewer unparsed answers are better.
        (
            (0.2, 0.15, 0.25),
            (0.05, 0.02, 0.08),
            "critic/parse_failures",
            "-15.0 points",
            "-20.8 to -9.2",
            "good",
            "better",
        ),
        # A bias is a number, not a share, and neither rise nor fall is good by itself.
        ((0.5, 0.4, 0.6), (0.1, 0.0, 0.2), "critic/position_bias", "-0.4", "-0.541 to -0.259", "", "fell"),
        ((0.5, None, None), (0.7, None, None), "critic/accuracy", "+20.0 points", "", "", ""),
    ],
)
def test_change(before: Figure, after: Figure, name: str, change: str, interval: str, trend: str, word: str) -> None:
    ((row,),) = metric_groups(board({name: before}, {name: after})).values()
    first, last = row.cells
    assert first is not None
    assert last is not None
    assert first.change is None
    assert last.change is not None
    assert (last.change.text, last.change.interval) == (change, interval)
    assert (last.change.trend, last.change.word, last.change.paired) == (trend, word, False)


def test_what_was_not_measured_did_not_change() -> None:
    ((row,),) = metric_groups(board({"a": (None, None, None)}, {"a": (0.7, 0.6, 0.8)})).values()
    assert row.cells[0] is None
    assert row.cells[1] is not None
    assert row.cells[1].change is None


def test_seeds_have_a_mean_change_and_a_control_is_no_seed() -> None:
    runs = []
    for number, (name, rise, flip) in enumerate((("s0", 0.1, 0), ("s1", 0.2, 0), ("s2", 0.3, 0), ("control", -0.3, 1))):
        run = Run(
            Path(name), name, RunInfo(name="demo", seed=number % 3, settings={"flip_labels": flip, "seed": number})
        )
        for stage, value in (("before", 0.5), ("after", 0.5 + rise)):
            estimate = MetricValue(value=value, low=value - 0.01, high=value + 0.01)
            run.measured.append(Measured("held-out", stage, ResultFile(metrics={"critic/accuracy": estimate})))
        runs.append(run)
    (board,) = make_boards(runs)
    assert [column.label for column in board.repeats] == ["s0 · after", "s1 · after", "s2 · after"]
    ((row,),) = metric_groups(board).values()
    assert row.mean is not None
    assert (row.mean.text, row.mean.interval, row.mean.word) == ("+20.0 points", "-4.8 to +44.8", "no clear change")
    ((row,),) = metric_groups(make_boards(runs[:1] + runs[3:])[0]).values()
    assert row.mean is None


def test_what_nobody_measured_is_no_row() -> None:
    assert metric_groups(board({"a": (None, None, None)}, {"a": (None, None, None)})) == {}


def test_cells_print_their_unit() -> None:
    one = {
        "critic/accuracy": (0.612, 0.58, 0.64),
        "critic/position_bias": (-0.12, -0.2, 0.0),
        "best_of_8/knock_out_minus_majority": (-0.031, -0.06, 0.004),
    }
    cells = [row.cells[0] for rows in metric_groups(board(one)).values() for row in rows]
    assert [(cell.value, cell.interval, cell.n) for cell in cells if cell] == [
        ("61.2 %", "58.0 to 64.0 %", "10"),
        ("-0.12", "-0.2 to 0", "10"),
        ("-3.1 points", "-6.0 to +0.4", "10"),
    ]
    assert [bool(cell and cell.bar) for cell in cells] == [True, False, False]


HALF = (0.5, 0.4, 0.6)


def test_groups_come_in_reading_order_and_unlisted_figures_last() -> None:
    names = (
        "zebra",
        "best_of_8_other/oracle",
        "best_of_8/oracle",
        "best_of_16/round_robin",
        "policy/greedy",
        "length/bias",
        "critic/swap_consistency",
        "official/category/safety/bias",
        "official/overall",
    )
    groups = metric_groups(board(dict.fromkeys(names, HALF)))
    assert list(groups) == [
        "Official metrics",
        "As a critic",
        "Length of the responses",
        "As a policy",
        "Best of 16",
        "Best of 8",
        "Best of 8, another policy's candidates",
        "Other metrics",
    ]
    assert [row.meaning.label for row in groups["Official metrics"]] == ["Overall", "safety/bias"]
    assert groups["Other metrics"][0].meaning.label == "zebra"


def test_headlines_are_those_that_the_board_has_each_once() -> None:
    held_out = board({"policy/greedy": HALF, "critic/accuracy": HALF})
    assert [row.name for row in headlines(held_out, metric_groups(held_out))] == ["critic/accuracy", "policy/greedy"]
    tasks = {f"policy/{name}": HALF for name in ("chart/mean", "chart/a", "mean", "video/b", "chart/b")}
    suite = board(tasks | {"policy/chart/c": (1500.0, 1400.0, 1600.0)}, kind="policy")
    groups = metric_groups(suite)
    assert {title: [row.meaning.label for row in rows] for title, rows in groups.items()} == {
        "All tasks": ["Mean"],
        "Chart": ["Mean", "a", "b", "c"],
        "Video": ["b"],
    }
    assert [row.cells[0] and row.cells[0].value for row in groups["Chart"]][2:] == ["50.0 %", "1,500"]
    names = [row.name for row in headlines(suite, groups)]
    assert names == ["policy/mean", "policy/chart/mean", "policy/chart/a", "policy/chart/b"]


def test_part_of_a_metric_keeps_its_unit_and_direction() -> None:
    meaning = place_of("critic/parse_failures/no_box")[2]
    assert (meaning.label, meaning.better, meaning.unit) == ("Unparsed: no_box", -1, "share")


def test_categories_stand_apart_even_with_a_slash_in_their_name() -> None:
    one = board({"category/safety/bias/accuracy": HALF, "category/chat/position_bias": HALF, "critic/accuracy": HALF})
    assert [row.name for rows in metric_groups(one).values() for row in rows] == ["critic/accuracy"]
    (table,) = category_tables(one)
    assert [figure.label for figure in table.metrics] == ["Accuracy", "Position bias"]
    assert [(name, [cell and cell.value for cell in cells]) for name, cells in table.rows] == [
        ("chat", [None, "0.5"]),
        ("safety/bias", ["50.0 %", None]),
    ]


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
