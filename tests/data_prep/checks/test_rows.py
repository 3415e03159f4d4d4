"""Preflight over finished files: each fault is found, named with file and row, and given a remedy."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.checks.verl import LOG, check_with_verl, validate
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask, row_schema
from data_prep.writer import write_parquet
from tests.data_prep.made_images import make_image


def good_rows(n: int = 5) -> list[dict[str, Any]]:
    pairs = (PreferencePair("t", (Image(make_image(i)),), f"What is {i}?", ("a dog", "a cat"), 0) for i in range(n))
    return [PreferenceTask(p, i % 2, index=i).row() for i, p in enumerate(pairs)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, row_schema()), path)
    return path


def set_label(value: Any) -> Any:
    return lambda row: row["reward_model"].update(ground_truth=value)


def set_task(ability: str, label: str) -> Any:
    return lambda row: row.update(ability=ability, reward_model={"style": "rule", "ground_truth": label})


def set_image(value: Any) -> Any:
    return lambda row: row["images"][0].update(bytes=value)


def set_text(value: str) -> Any:
    return lambda row: row["prompt"][0].update(content=value)


FAULTS = {
    "label 3": (set_label("3"), "label"),
    "label null": (set_label(None), "label"),
    "label in words": (set_label("first"), "label"),
    "score off the scale": (set_task("critic_score", "11"), "reward"),
    "response that is not there": (set_task("critic_nway", "17"), "reward"),
    "no answer": (set_task("vqa", ""), "label"),
    "no bytes": (set_image(None), "image-missing"),
    "empty bytes": (set_image(b""), "image-empty"),
    "no image": (set_image(b"not an image at all"), "image-unreadable"),
    "cut image": (set_image(make_image(1, (300, 300))[:-900]), "image-truncated"),
    "marker too many": (set_text("<image> and <image>"), "markers"),
    "marker too few": (set_text("no marker"), "markers"),
    "video marker": (set_text("<image> <video>"), "markers"),
    "no turn": (lambda row: row.update(prompt=[]), "prompt"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_in_its_row(fault: str, tmp_path: Path) -> None:
    rows = good_rows()
    damage, reason = FAULTS[fault]
    damage(rows[3])
    path = write(tmp_path / "x.parquet", rows)
    report = check_parquet(path)
    assert [(f.row, f.reason) for f in report.failures] == [(3, reason)]
    assert str(path) in str(report.failures[0])
    assert "row 3" in str(report.failures[0])
    assert report.failures[0].remedy


def _empty(path: Path) -> None:
    write(path, [])


def _no_columns(path: Path) -> None:
    pq.write_table(pa.table({"question": ["x"]}), path)


def _cut(path: Path) -> None:
    write(path, good_rows())
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no-file"),
        (_empty, "empty"),
        (_no_columns, "columns"),
        (_cut, "no-parquet"),
        (lambda path: path.write_text("hello"), "no-parquet"),
    ],
    ids=["absent", "empty", "columns", "cut", "text"],
)
def test_bad_file(make: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    make(path)
    assert [f.reason for f in check_parquet(path).failures] == [reason]


def test_empty_folder_is_a_failure(tmp_path: Path) -> None:
    assert [f.reason for f in check_parquet(tmp_path).failures] == ["no-file"]


def test_only_a_spread_of_rows_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", good_rows(20))
    assert check_parquet(path, decode_rows=5).decoded == 5
    assert check_parquet(path).decoded == 20


def test_rows_load_through_verl_with_text_that_looks_like_markers(tmp_path: Path) -> None:
    texts = ["<image>", "<video> and <audio>", "<|im_end|>", "\\boxed{2}", "\ud800", "plain"]
    pairs = [
        PreferencePair("t", (Image(make_image(i)),) * (i % 3), t, (t + " a", t + " b"), 1) for i, t in enumerate(texts)
    ]
    path = write(tmp_path / "x.parquet", [PreferenceTask(p, 0, index=i).row() for i, p in enumerate(pairs)])
    report = validate([path])
    assert report.ok, report.failures
    assert report.rows == len(texts)


def test_verl_finds_what_it_cannot_load(tmp_path: Path) -> None:
    rows = good_rows()
    rows[1]["prompt"][0]["content"] = "<image><image>"
    rows[2]["images"][0]["bytes"] = b"no image"
    report = check_with_verl(write(tmp_path / "x.parquet", rows))
    assert [f.row for f in report.failures] == [1, 2]


def test_referenced_images_load_through_verl(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(make_image(1))
    pair = PreferencePair("t", (Image(None, str(tmp_path / "p.jpg")),), "What?", ("a", "b"), 0)
    path = tmp_path / "x.parquet"
    table = pa.Table.from_pylist([PreferenceTask(pair, 0).row()], row_schema(embedded=False))
    pq.write_table(table, path)
    assert validate([path]).ok


def test_second_run_skips_what_was_good_and_repeats_what_was_not(tmp_path: Path) -> None:
    bad = good_rows()
    set_label("3")(bad[0])
    write(tmp_path / "a.parquet", good_rows())
    write(tmp_path / "b.parquet", bad)
    seen: list[str] = []
    for expected in (["a.parquet", "b.parquet"], ["b.parquet"]):
        seen.clear()
        report = validate([tmp_path], through_verl=False, progress=lambda name, rows: seen.append(name))
        assert seen == expected
        assert (report.rows, report.n_failures) == (10, 1)
    write(tmp_path / "a.parquet", good_rows(6))
    with (tmp_path / LOG).open("a") as stream:
        stream.write('{"cut')
    assert validate([tmp_path], through_verl=False).rows == 11


def folder_of_shards(path: Path) -> Path:
    pairs = [PreferencePair("t", (Image(make_image(i)),), f"What is {i}?", ("a dog", "a cat"), 0) for i in range(6)]
    write_parquet((PreferenceTask(p, i % 2, index=i) for i, p in enumerate(pairs)), path, shard_bytes=3_000)
    assert len(list(path.glob("*.parquet"))) > 2
    return path


@pytest.mark.parametrize("verl", [True, False])
@pytest.mark.parametrize("fault", ["gone", "foreign", "no manifest of ours"])
def test_the_folder_must_be_as_its_manifest_says(fault: str, verl: bool, tmp_path: Path) -> None:
    folder = folder_of_shards(tmp_path)
    assert check_parquet(folder).ok
    first = folder / "train-00000.parquet"
    if fault == "gone":
        first.unlink()
    elif fault == "foreign":
        (folder / "other.parquet").write_bytes(first.read_bytes())
    else:
        (folder / "manifest.json").write_text("[]")
    report = validate([folder], through_verl=False) if verl else check_parquet(folder)
    assert [f.reason for f in report.failures] == ["no-file" if fault == "gone" else "manifest"]
    assert report.failures[0].remedy


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_changed_byte_of_a_image_is_found(whole_folder: bool, tmp_path: Path) -> None:
    folder = folder_of_shards(tmp_path)
    first = folder / "train-00000.parquet"
    data = bytearray(first.read_bytes())
    data[data.index(b"\xff\xda") + 40] ^= 1  # behind the header, among the pixels
    first.write_bytes(data)
    report = check_parquet(folder if whole_folder else first, decode_rows=0)
    assert [(f.file, f.reason) for f in report.failures] == [(str(first), "manifest")]
    assert "checksum" in report.failures[0].detail


def test_a_shard_of_another_size_is_found(tmp_path: Path) -> None:
    write(tmp_path / "train-00000.parquet", good_rows())
    shard = {"file": "train-00000.parquet", "bytes": 5}
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [shard]}))
    (failure,) = check_parquet(tmp_path).failures
    assert "the manifest has 5" in failure.detail


def test_an_order_that_there_is_not_is_found(tmp_path: Path) -> None:
    rows = good_rows(2)
    rows[1]["extra_info"]["order"] = 2
    (failure,) = check_parquet(write(tmp_path / "t.parquet", rows)).failures
    assert (failure.row, failure.reason) == (1, "order")
