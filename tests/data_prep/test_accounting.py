"""Nothing is lost without being counted, and what was left out can be found in the source again."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.sources.excerpt import EXCERPT
from data_prep.sources.record import Reject, Source
from data_prep.sources.registry import load_source
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.transform import Transform
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(8):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    return tmp_path


Record = dict[str, Any]


def converted(folder: Path, source: str, *records: Record, **settings: Any) -> dict[str, Any]:
    """The manifest of records that refer to the images of the folder."""
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    manifest: dict[str, Any] = convert([str(folder / "in.jsonl")], folder / "out", Settings(source, **settings))
    return manifest


def rejected(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson", "in.jsonl.gz"])
def test_a_list_in_the_first_line_is_one_record(name: str, folder: Path) -> None:
    text = "\n".join(["[1, 2]", *(json.dumps(GOOD["mm_rlhf"](n)) for n in range(8))]).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    manifest = convert([str(folder / name)], folder / "out", Settings("mm_rlhf", unit_rows=3))
    assert manifest["records"] == {"in": 9, "used": 8, "rejected": 1}
    assert manifest["rejected"] == {"wrong-type": 1}


@pytest.mark.parametrize("unit_rows", [2, 4, 100])
@pytest.mark.parametrize("behind", ["\n\n[{}, {}]", "{}", " " * 2_000_000 + "x"])
def test_what_stands_behind_the_end_of_a_list_is_told(behind: str, unit_rows: int, folder: Path) -> None:
    (folder / "in.json").write_text(json.dumps([GOOD["mm_rlhf"](n) for n in range(4)]) + behind)
    manifest = convert([str(folder / "in.json")], folder / "out", Settings("mm_rlhf", unit_rows=unit_rows))
    assert manifest["records"] == {"in": 5, "used": 4, "rejected": 1}
    (problem,) = rejected(folder / "out")
    assert problem["row"] == 4
    assert problem["reason"] in ("file-unreadable", "bad-json", "wrong-type")


def test_blank_space_behind_a_list_is_nothing(folder: Path) -> None:
    (folder / "in.json").write_text(json.dumps([GOOD["mm_rlhf"](0)]) + " \n" * 1_000_000)
    assert convert([str(folder / "in.json")], folder / "out", Settings("mm_rlhf"))["records"]["in"] == 1


@pytest.mark.parametrize("orders", ["balanced", "both"])
@pytest.mark.parametrize(
    ("responses", "ranks", "rows", "left_out"),
    [
        (["a", "b", "c", "b"], [1, 2, 3, 2], 4, {"duplicate": 1, "same-responses": 1}),  # a over b, twice
        (["a", "b", "b"], [1, 2, 2], 1, {"duplicate": 1, "same-responses": 1}),
        (["a", "b", "b"], [1, 1, 1], 1, {"duplicate": 1, "same-responses": 1}),
    ],
)
def test_a_pair_that_a_record_gives_twice_stays_once(
    responses: list[str], ranks: list[int], rows: int, left_out: dict[str, int], orders: Any, folder: Path
) -> None:
    record = {"prompt": "q?", "responses": responses, "rankings": ranks, "image": "1.jpg"}
    manifest = converted(folder, "generic", record, orders=orders)
    assert manifest["rows"] == {"train": rows * (2 if orders == "both" else 1)}
    assert manifest["dropped_pairs"] == left_out


@pytest.mark.parametrize("settings", [{"ties": "drop"}, {"template": "compact"}], ids=str)
def test_dropped_ties_of_a_used_record_are_counted(folder: Path, settings: dict[str, Any]) -> None:
    """They are not wanted, or the template offers none."""
    record = {"prompt": "q?", "responses": ["a", "b", "c"], "rankings": [1, 2, 2], "image": "1.jpg"}
    manifest = converted(folder, "generic", record, **settings)
    assert manifest["rows"] == {"train": 2}
    assert manifest["dropped_pairs"] == {"tie": 1}
    assert set(manifest["labels"]["train critic/generic"]) == {"1", "2"}


def rated(*ratings: str, responses: list[str] | None = None) -> dict[str, Any]:
    return {
        "prompt": "What is it?",
        "img_path": "1.jpg",
        "completions": {
            "annotations": [json.dumps({"Helpfulness": {"Rating": rating}}) for rating in ratings],
            "model": [f"m{i}" for i in range(len(ratings))],
            "response": responses or [f"Answer {i}." for i in range(len(ratings))],
        },
    }


@pytest.mark.parametrize(
    ("record", "pairs", "left_out"),
    [
        (rated("5", "N/A", "3", "1"), 3, {"bad-rating": 1}),
        (rated("5", "3", "1", responses=["a", " ", "c"]), 1, {"empty-text": 1}),
        (rated("5", "4.8", "1"), 2, {"gap-too-small": 1}),
        (rated("5", "5", "1", responses=["a", "a", "b"]), 1, {"same-responses": 1, "duplicate": 1}),
    ],
)
def test_vlfeedback_leaves_out_an_answer_or_a_pair_and_not_the_record(
    record: dict[str, Any], pairs: int, left_out: dict[str, int], folder: Path
) -> None:
    manifest = converted(folder, "vlfeedback", record)
    assert manifest["rows"] == {"train": pairs}
    assert manifest["dropped_pairs"] == left_out
    assert "pairs of used records" in (folder / "out" / "README.md").read_text()


def test_a_reject_leads_to_its_record(folder: Path) -> None:
    """File below what the inputs have in common, number in the file, and the record's beginning."""
    good = json.dumps(GOOD["mm_rlhf"](0))
    for name in ("a", "b"):
        (folder / "set" / name).mkdir(parents=True)
        (folder / "set" / name / "0.jpg").write_bytes(make_image(0))
        lines = [good, "", good, json.dumps({"question": "x" * 900, "marker": name})]
        (folder / "set" / name / "train.jsonl").write_text("\n".join(lines))
    convert([str(folder / "set")], folder / "out", Settings("mm_rlhf", unit_rows=2))
    found = {(r["file"], r["row_of_file"]): r for r in rejected(folder / "out") if r["reason"] != "duplicate"}
    assert set(found) == {("a/train.jsonl", 2), ("b/train.jsonl", 2)}
    for (file, _), problem in found.items():
        assert f'"marker": "{file[0]}"' in problem["record"]
        assert len(problem["record"]) <= EXCERPT
    twice = [r for r in rejected(folder / "out") if r["reason"] == "duplicate"]
    assert [(r["file"], r["row_of_file"]) for r in twice] == [
        ("a/train.jsonl", 1),
        *(("b/train.jsonl", i) for i in (0, 1)),
    ]


def test_the_generic_source_names_the_columns_of_the_record(folder: Path) -> None:
    record = {"ask": "q", "photo": "1.jpg", "good": "a", "bad": "b"}
    converted(folder, "generic", record, columns={"image": "photo"})
    (problem,) = rejected(folder / "out")
    assert problem["reason"] == "missing-field"
    assert "ask, bad, good, photo" in problem["remedy"]
    assert "--map" in problem["remedy"]


def of_items(*items: Any) -> Any:
    """What becomes of the items that a source of one's own yields for a record."""
    source = Source("own", "own", lambda record, options: iter(items), "", "", "", own=True)
    return Transform(Settings("own"), source)([(0, {})])


def pair(**changes: Any) -> PreferencePair:
    fields = {"source": "own", "images": (Image(make_image(1)),), "question": "q?", "responses": ("a", "b")}
    return PreferencePair(**{**fields, "preferred": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"preferred": 2}, "unknown-label"),
        ({"preferred": -1}, "unknown-label"),
        ({"preferred": None}, "unknown-label"),
        ({"preferred": True}, "unknown-label"),
        ({"preferred": "1"}, "unknown-label"),
        ({"preferred": 1.0}, "unknown-label"),
        ({"responses": ("a", None)}, "wrong-type"),
        ({"responses": ("a", "b", "c")}, "wrong-type"),
        ({"question": b"q"}, "wrong-type"),
        ({"responses": ("a", "a ")}, "same-responses"),
        ({"images": None}, "unforeseen"),
    ],
)
def test_a_source_of_ones_own_cannot_make_a_wrong_row(changes: dict[str, Any], reason: str) -> None:
    outcome = of_items(pair(**changes))
    assert [r["reason"] for r in outcome.rejected] == [reason]
    assert outcome.rows == []


@pytest.mark.parametrize("better", [0, 1, "tie"])
def test_a_source_of_ones_own_may_prefer(better: Any) -> None:
    assert of_items(pair(preferred=better)).used == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, AssertionError, RuntimeError, StopIteration])
def test_an_error_in_a_source_of_ones_own_costs_its_record(error: type[Exception]) -> None:
    def convert(record: Any, options: Any) -> Any:
        raise error("it broke")

    outcome = Transform(Settings("own"), Source("own", "own", convert, "", "", "", own=True))([(0, {}), (1, {})])
    assert [r["reason"] for r in outcome.rejected] == ["unforeseen"] * 2


def test_a_source_may_leave_a_pair_out_and_say_why() -> None:
    outcome = of_items(
        pair(), Reject("too-old", "from last year"), RankedResponses("own", (), "q?", ("a", "b"), (1, 2))
    )
    assert outcome.used == 1
    assert outcome.dropped_pairs == {"too-old": 1}
    assert [r["reason"] for r in of_items(Reject("too-old", "x")).rejected] == ["too-old"]


def test_images_of_many_records_are_not_held_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.transform.PORTION_BYTES", 2 * len(make_image(0)))
    transform = Transform(Settings("mm_rlhf"), Source("mm_rlhf", "", load_source("mm_rlhf").convert, "", "", ""))
    records = [(n, GOOD["mm_rlhf"](n)) for n in range(7)]
    parts = list(transform.portions(records, str(folder)))
    assert len(parts) > 2
    whole = Transform(Settings("mm_rlhf"), transform.source)(records, str(folder))
    assert [row for part in parts for row in part.rows] == whole.rows
    assert sum(part.used for part in parts) == whole.used == 7
