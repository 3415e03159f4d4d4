"""Records of hostile files: bounded before memory is taken, and named."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.reading import parquet_files, units
from data_prep.reading.parquet_files import bounded_batches, group_rows, open_parquet
from data_prep.reading.units import Broken, plan_units, read_batches, read_unit


@pytest.mark.parametrize(
    ("name", "head", "tail", "expected"),
    [
        ("line.jsonl.gz", b'{"question": "', b"", ["record-too-long"]),
        ("line.jsonl.gz", b'{"a": 1}\n{"question": "', b'"}\n{"a": 2}\n', ["read", "record-too-long", "read"]),
        ("list.json.gz", b'[{"question": "', b"", ["record-too-long"]),
        ("list.json.gz", b'[{"a": 1}, {"question": "', b'"}, {"a": 2}]', ["read", "record-too-long", "read"]),
    ],
)
def test_an_endless_record_takes_no_memory(
    name: str, head: bytes, tail: bytes, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "LONGEST_RECORD", 2**16)
    monkeypatch.setattr(units, "_CHUNK", 2**16)
    path = tmp_path / name
    path.write_bytes(gzip.compress(head + b"a" * 2**25 + tail))
    tracemalloc.start()
    found = [record for unit in plan_units([str(path)]) for _, record in read_unit(unit)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [getattr(record, "reason", "read") for record in found] == expected
    assert most < 2**22


@pytest.mark.parametrize("as_list", [False, True])
def test_long_records_are_left_out_one_by_one(as_list: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LONGEST_RECORD", 100)
    monkeypatch.setattr(units, "_CHUNK", 32)
    texts = ("x" * 200, '{[,"' * 60, "y" * 5_000)
    records = [record for n, text in enumerate(texts) for record in ({"n": n}, {"long": text})]
    path = tmp_path / ("a.json" if as_list else "a.jsonl")
    path.write_text(json.dumps(records) if as_list else "".join(json.dumps(r) + "\n" for r in records))
    for rows in (1, 2, 10):
        planned = plan_units([str(path)], unit_rows=rows)
        found = [record for unit in planned for _, record in read_unit(unit)]
        assert [r if isinstance(r, dict) else r.reason for r in found] == [
            r if "n" in r else "record-too-long" for r in records
        ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "bad-json"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "bad-json"),
        ("[" + "0," * 2**20 + "0]", "record-too-long"),
        ("[" + "[]," * 2**19 + "[]]", "record-too-long"),
    ],
)
def test_deep_and_crowded_records(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text + '\n{"a": 1}\n')
    first, second = [record for unit in plan_units([str(path)]) for _, record in read_unit(unit)]
    assert isinstance(first, Broken)
    assert (first.reason, second) == (reason, {"a": 1})


def test_a_batch_of_long_records_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "BATCH_BYTES", 1_000)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps({"a": "x" * 400}) + "\n" for _ in range(10))
    (unit,) = plan_units([str(path)])
    assert [len(batch) for batch in read_batches(unit)] == [3, 3, 3, 1]


def repeated(path: Path, value: bytes, rows: int, column: str = "x", **options: Any) -> Path:
    """A file whose every row is one value of the dictionary."""
    table = pa.table({column: pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value]))})
    pq.write_table(table, path, compression="zstd", **options)
    return path


def test_rows_that_repeat_a_large_value_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeated(tmp_path / "a.parquet", b"a" * 2**24, 500)
    assert path.stat().st_size < 10_000  # and 8 GiB of values
    monkeypatch.setattr(parquet_files, "REPEATED_BYTES", 2**25)
    with open_parquet(path) as parquet:
        assert group_rows(parquet, path, 0, 128) == 1
        assert next(bounded_batches(parquet, path, ["x"], 128)).num_rows == 1
    (unit,) = plan_units([str(path)])
    assert [len(batch) for batch, _ in zip(read_batches(unit), range(3), strict=False)] == [1, 1, 1]


def test_a_small_dictionary_costs_nothing(tmp_path: Path) -> None:
    path = repeated(tmp_path / "a.parquet", b"template", 500)
    with open_parquet(path) as parquet:
        assert group_rows(parquet, path, 0, 128) == 128


def test_a_column_that_is_compressed_beyond_belief_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [b"a" * 2**22] * 4}), path, compression="zstd", use_dictionary=False)
    with open_parquet(path) as parquet:
        assert group_rows(parquet, path, 0, 128) == 128
        monkeypatch.setattr(parquet_files, "BOMB_BYTES", 2**20)
        with pytest.raises(pa.ArrowInvalid, match=r"column x: [\d,]+ bytes unpack to [\d,]+; refused"):
            group_rows(parquet, path, 0, 128)
    (unit,) = plan_units([str(path)])
    found = [record for _, record in read_unit(unit)]
    assert {record.reason for record in found} == {"file-unreadable"}
    assert len(found) == 4


def test_rows_that_repeat_too_much_are_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeated(tmp_path / "a.parquet", b"a" * 2**20, 500)
    monkeypatch.setattr(parquet_files, "EXPANDED_BYTES", 2**28)
    (unit,) = plan_units([str(path)])
    read = [record for _, record in read_unit(unit)]
    assert [isinstance(record, Broken) for record in read] == [False] * 128 + [True] * 372
    assert "its rows repeat" in read[-1].detail


def test_a_row_group_that_claims_rows_beyond_belief_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeated(tmp_path / "a.parquet", b"a", 100_000)
    monkeypatch.setattr(parquet_files, "MANY_ROWS", 10_000)
    (unit,) = plan_units([str(path)])
    assert (unit.kind, unit.rows) == ("unreadable", 1)
    assert "claims 100,000 rows in" in unit.note


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_an_arrow_file_is_bounded_by_what_its_buffers_claim(
    repeats: bool, as_file: bool, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "BOMB_BYTES", 2**20)
    monkeypatch.setattr(parquet_files, "EXPANDED_BYTES", 2**21)

    def found(values: list[str]) -> list[Any]:
        column = pa.array(values)
        table = pa.table({"x": column.dictionary_encode() if repeats else column, "n": list(range(len(values)))})
        path = tmp_path / "a.arrow"
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with (
            pa.OSFile(str(path), "wb") as sink,
            (pa.ipc.new_file if as_file else pa.ipc.new_stream)(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(table)
        read = [record for unit in plan_units([str(path)]) for _, record in read_unit(unit)]
        assert read == table.to_pylist() or all(isinstance(record, Broken) for record in read)
        return read

    assert found([f"text {n}" for n in range(500)])[7] == {"x": "text 7", "n": 7}
    message = "repeat" if repeats else "unpack to"
    assert message in found(["y" * 2**16] * 200)[0].detail
