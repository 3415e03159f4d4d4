"""Contradictory labels, repeated pairs, and the balance that is left without them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep import repeats
from data_prep.checks.rows import check_parquet
from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.tasks.pairwise import PreferencePair, PreferenceTask, swapped_row
from data_prep.tasks.prompts import get_template
from data_prep.worker import Job
from data_prep.writer import file_checksum
from tests.data_prep.made_images import make_image
from tests.data_prep.made_sets import digest


def row(n: int, first: str, second: str, label: Any) -> dict[str, Any]:
    return {"prompt": f"q{n}?", "response_1": first, "response_2": second, "label": label, "image": "0.jpg"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0.jpg").write_bytes(make_image(0))
    return tmp_path


def prepared(folder: Path, rows: list[dict[str, Any]], name: str = "out", **changes: Any) -> dict[str, Any]:
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return convert([str(folder / "in.jsonl")], folder / name, Settings("generic", **changes))


SURE = [row(7, "x", "y", "A"), row(8, "x", "y", "B")]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (row(1, "a", "b", "B"), "contradictory"),
        (row(1, "b", "a", "A"), "contradictory"),
        (row(1, "a", "b", "tie"), "contradictory"),
        (row(1, " B\n", "A", "A"), "contradictory"),  # case and blanks do not make another pair
        ({**row(1, "a", "b", "B"), "prompt": "Q1?"}, "contradictory"),
        (row(1, "a", "b", "A"), "duplicate"),
        (row(1, "b", "a", "B"), None),  # the same judgement in the other order
        (row(1, "a", "c", "B"), None),
    ],
)
@pytest.mark.parametrize("unit_rows", [1, 100])
def test_contradictory_labels(other: dict[str, Any], reason: str | None, unit_rows: int, folder: Path) -> None:
    manifest = prepared(folder, [row(1, "a", "b", "A"), *SURE, other], unit_rows=unit_rows)
    lost = {None: 0, "duplicate": 1, "contradictory": 2}[reason]
    assert manifest["rejected"] == ({reason: lost} if reason else {})
    assert manifest["rows"] == {"train": 4 - lost}
    assert check_parquet(folder / "out").ok


def test_contradictions_across_files_and_within_a_record(folder: Path) -> None:
    for name, label in (("a", "A"), ("b", "B")):
        (folder / f"{name}.jsonl").write_text(json.dumps(row(1, "a", "b", label)))
    ranked = {"prompt": "q?", "responses": ["a", "b", "c", "a"], "rankings": [1, 2, 3, 4], "image": "0.jpg"}
    (folder / "c.jsonl").write_text(json.dumps(ranked))
    manifest = convert([str(folder / f"{name}.jsonl") for name in "abc"], folder / "out", Settings("generic"))
    assert manifest["rejected"] == {"contradictory": 2}
    assert manifest["dropped_pairs"] == {"contradictory": 4, "same-responses": 1}
    reasons = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {r["remedy"] for r in reasons} == {"Decide which label is right, or use --contradictions keep."}


@pytest.mark.parametrize(
    ("second", "ranks", "rejected"),
    [
        (["a", "b", "c"], [3, 2, 1], {"contradictory": 2}),
        (["C", "b ", "a"], [1, 2, 3], {"contradictory": 2}),
        (["c", "b", "a"], [3, 2, 1], {}),
        (["a", "b", "d"], [3, 2, 1], {}),
    ],
)
def test_contradictory_best_of_n(second: list[str], ranks: list[int], rejected: dict[str, int], folder: Path) -> None:
    first = {"prompt": "q?", "responses": ["a", "b", "c"], "rankings": [1, 2, 3], "image": "0.jpg"}
    other = {**first, "responses": second, "rankings": ranks}
    assert prepared(folder, [first, other], nway="tasks")["rejected"] == rejected


def test_responses_that_differ_in_case_only_are_still_two(folder: Path) -> None:
    rows = [row(1, "Yes", "yes", "A"), row(1, "yes", "Yes", "B"), row(2, "Yes", "yes", "A"), row(2, "yes", "Yes", "A")]
    assert prepared(folder, rows)["rejected"] == {"contradictory": 2}


def test_contradictions_may_be_kept_and_are_still_counted(folder: Path) -> None:
    rows = [row(1, "a", "b", "A"), row(1, "b", "a", "A"), *SURE]
    manifest = prepared(folder, rows, contradictions="keep")
    assert manifest["kept_contradictions"] == 2
    assert manifest["rows"] == {"train": 4}


def labels(folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    (counts,) = manifest["labels"].values()
    tables = [pq.read_table(folder / shard["file"]) for shard in manifest["shards"]]
    written = [truth["ground_truth"] for table in tables for truth in table["reward_model"].to_pylist()]
    assert {label: written.count(label) for label in set(written)} == counts
    return dict(counts)


@pytest.mark.parametrize("unit_rows", [3, 7, 100])
@pytest.mark.parametrize("period", [2, 3, 5])
def test_orders_are_balanced_when_repeated_pairs_are_gone(period: int, unit_rows: int, folder: Path) -> None:
    """Every n-th record repeats the one before, so that the same place of each couple goes."""
    rows = [row(n - (n % period == period - 1), "a", "b", "A" if n < 40 else "B") for n in range(60)]
    manifest = prepared(folder, rows, unit_rows=unit_rows)
    assert manifest["rejected"] == {"duplicate": 60 // period}
    counts = labels(folder / "out", manifest)
    assert abs(counts["1"] - counts["2"]) <= 1
    assert check_parquet(folder / "out").ok


def test_many_short_units_are_balanced_together(folder: Path) -> None:
    manifest = prepared(folder, [row(n, "a", "b", "A") for n in range(31)], unit_rows=1)
    assert sorted(labels(folder / "out", manifest).values()) == [15, 16]


def test_a_swapped_row_is_the_task_in_the_other_order() -> None:
    pair = PreferencePair("t", (), "Why <image>?", ("One \ud800.", "Two \\boxed{1}."), 1)
    first, second = (PreferenceTask(pair, order, template=get_template("short"), ties=True).flat() for order in (0, 1))
    assert swapped_row(first, ties=True) == second
    assert swapped_row(second, ties=True) == first


@pytest.mark.parametrize(("longer", "swapped"), [(0, 5), (1, 0)])
def test_a_swapped_prompt_is_measured_and_kept_below_the_limit(
    longer: int, swapped: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for the meter finds swapped prompts as long as the limit, or longer."""
    limit = 50

    class Meter:
        def measure(self, prompts: list[str], sizes: list[list[tuple[int, int]]]) -> list[int]:
            assert [len(own) for own in sizes] == [1]
            return [limit + longer]

    prepared(folder, [row(n, "a", "b", "A") for n in range(10)], orders="as_is")
    given = Settings("generic", model="m", max_prompt_tokens=limit)
    shard = {"file": "train-00000.parquet", "split": "train", "rows": 10, "xxh3_128": None}
    (folder / "out" / ".work").mkdir()
    monkeypatch.setattr(repeats, "meter_of", lambda job: Meter())
    repeats.balance_orders(Job(given, str(folder / "out")), [{"shards": [shard]}])
    info = pq.read_table(folder / "out" / "train-00000.parquet")["extra_info"].to_pylist()
    assert sum(i["order"] for i in info) == swapped
    assert [i["prompt_tokens"] for i in info].count(limit) == swapped


@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_while_shards_are_rewritten_ends_the_same(
    after: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(n - n % 2, "a", "b", "A" if n % 4 else "B") for n in range(24)] + [
        row(n, "x", "y", "A") for n in range(9)
    ]
    whole = prepared(folder, rows, "whole", unit_rows=4)
    count = 0

    def killed(path: Path) -> str:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        return file_checksum(path)

    with monkeypatch.context() as patch:
        patch.setattr(repeats, "file_checksum", killed)
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, rows, "cut", unit_rows=4)
    assert convert([str(folder / "in.jsonl")], folder / "cut", Settings("generic", unit_rows=4)) == whole
    assert digest(folder / "cut") == digest(folder / "whole")
