"""Every format gives the same records in the same units, whatever the size of the units."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_prep.convert import convert
from data_prep.reading import formats
from data_prep.reading.inputs import expand_inputs, open_input
from data_prep.reading.units import Broken, plan_units, read_unit
from data_prep.settings import Settings
from tests.data_prep.made_images import make_image

RECORDS = [
    {"id": str(n), "text": f'"{n}", [quoted]\n\n{{"a": "é,\\t"}}', "images": [f"{n}.jpg", "x.jpg"]} for n in range(7)
]


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def table(delimiter: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(RECORDS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows({**record, "images": json.dumps(record["images"])} for record in RECORDS)

    return write


def arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.Table.from_pylist(RECORDS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(RECORDS), max_chunksize=2)


def arrow_file(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.Table.from_pylist(RECORDS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(RECORDS), max_chunksize=2)


LINES = "\n".join(map(json.dumps, RECORDS)).encode()
WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "a.arrow": arrow,
    "file.arrow": arrow_file,
    "object.json": lambda path: path.write_text(json.dumps({"pairs": RECORDS})),
    "pretty.json": lambda path: path.write_text(json.dumps({"v": 1, "pairs": RECORDS, "by": {"a": [1]}}, indent=2)),
    "information.json": lambda path: path.write_text(
        json.dumps({"info": {"by": ["a", {"b": "}"}]}, "labels": ["x", '"]'], "empty": [], "data": RECORDS})
    ),
    "list.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "a.jsonl.zst": lambda path: path.write_bytes(zstd(LINES)),
    "object.json.zst": lambda path: path.write_bytes(zstd(json.dumps({"pairs": RECORDS}).encode())),
}


@pytest.mark.parametrize("unit_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("name", WRITERS)
def test_records_by_format(name: str, unit_rows: int, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    units = plan_units([str(tmp_path / name)], unit_rows=unit_rows)
    assert [pair for unit in units for pair in read_unit(unit)] == list(enumerate(RECORDS))
    assert len(units) >= len(RECORDS) // max(unit_rows, 2)


@pytest.mark.parametrize("name", [*WRITERS, "big.json"])
def test_a_stream_goes_back(name: str, tmp_path: Path) -> None:
    write: Callable[[Path], Any] = WRITERS.get(name, lambda path: path.write_bytes(b"x" * 5_000_000))
    write(tmp_path / name)
    with open_input(str(tmp_path / name)) as stream:
        whole = stream.read()
        for start in (len(whole) // 2, 0, len(whole) - 1):
            stream.seek(start)
            assert stream.read(50) == whole[start : start + 50]


@pytest.mark.parametrize("unit_rows", [1, 2, 100])
@pytest.mark.parametrize(
    ("name", "text", "good", "detail"),
    [
        ("a.csv", "id,text\n1,a\n2\n3,b\n", 2, "1 fields, and the table has 2 columns"),
        ("a.csv", 'id,text\n1,a\n2,"b\n3,c\n', 1, "unexpected end"),  # an open quote takes the rest as text
        ("a.csv", 'id,text\n1,"a"b"\n2,b\n3,c\n', 2, "expected after"),
        ("a.tsv", "id\ttext\n1\ta\n\n2\tb\n", 2, ""),
        ("a.csv", b"id,text\n1,a\n2,\xff\xfe\n3,c\n", 2, "not UTF-8"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16"), 0, "first line of the table cannot be read"),
        ("a.csv", "id,text,id\n1,a,2\n", 0, "several columns id"),
        ("a.json", '{"pairs": [{"id": 1}, {"id": 2}], "more": [{"id": 3}]}', 2, "another list of records, more"),
        ("a.json", '{"pairs": [{"id": 1}, {"id": 2}]', 2, ""),
        ("a.json", '{"pairs": [{"id": 1}, {"id": 2}]} {"id": 3}', 2, "that part was not read"),
        ("a.json", '{\n "a": {"id": 1},\n "b": {"id": 2}\n}', 0, "without a list of records"),
        ("a.json", '{"id": 1, "conversations": [{"from": "human", "value": "x"}]}', 1, ""),
        ("a.json", '{"id": 1}', 1, ""),
    ],
)
def test_what_does_not_fit_is_counted(
    name: str, text: str | bytes, good: int, detail: str, unit_rows: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = [r for unit in plan_units([str(tmp_path / name)], unit_rows=unit_rows) for _, r in read_unit(unit)]
    broken = [record for record in found if isinstance(record, Broken)]
    assert len(found) - len(broken) == good
    assert len(broken) == bool(detail)
    assert all(detail in record.detail for record in broken)


def test_one_long_line_is_one_object_or_one_record(tmp_path: Path) -> None:
    many = [{"id": n, "text": "x" * 400} for n in range(5_000)]
    (tmp_path / "object.json").write_text(json.dumps({"pairs": many}))
    talk = {"conversations": [{"from": "human", "value": "x" * 1_500_000}], "id": 1}
    (tmp_path / "record.json").write_text(json.dumps(talk))
    for name, records in (("object.json", many), ("record.json", [talk])):
        units = plan_units([str(tmp_path / name)])
        assert [record for unit in units for _, record in read_unit(unit)] == records


def test_a_field_without_end_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LONGEST_FIELD", 1_000)
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,"' + "x" * 5_000 + '"\n3,c\n')
    found = [record for unit in plan_units([str(tmp_path / "a.csv")], unit_rows=1) for _, record in read_unit(unit)]
    assert [isinstance(record, Broken) for record in found] == [False, True, False]
    assert "more than 1,000 bytes" in found[1].detail


@pytest.mark.parametrize("written", ['["1.jpg", "2.jpg"]', "['1.jpg', '2.jpg']", " ['1.jpg',\n '2.jpg']"])
def test_a_list_in_a_table(written: str, tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["images"], [written]])
    ((_, record),) = (pair for unit in plan_units([str(tmp_path / "a.csv")]) for pair in read_unit(unit))
    assert record == {"images": ["1.jpg", "2.jpg"]}


def test_a_set_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), **dict.fromkeys(("question", "chosen", "rejected"), datasets.Value("string"))}
    )
    rows = [
        {"image": {"bytes": make_image(n), "path": None}, "question": f"q{n}?", "chosen": "a", "rejected": "b"}
        for n in range(5)
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    assert [Path(file).suffix for file in expand_inputs([str(tmp_path / "saved")])] == [".arrow"]
    manifest = convert([str(tmp_path / "saved")], tmp_path / "out", Settings("generic", unit_rows=2))
    assert manifest["records"] == {"in": 5, "used": 5, "rejected": 0}


def test_a_table_with_base64_images(tmp_path: Path) -> None:
    """As VLMEvalKit's files hold them; `prepare` also finds the file in a folder."""
    import base64

    with (tmp_path / "set.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["index", "image", "question", "chosen", "rejected"])
        writer.writerows([[n, base64.b64encode(make_image(n)).decode(), f"q{n}?", "a", "b"] for n in range(5)])
    manifest = convert([str(tmp_path)], tmp_path / "out", Settings("generic", unit_rows=2))
    assert manifest["records"] == {"in": 5, "used": 5, "rejected": 0}
