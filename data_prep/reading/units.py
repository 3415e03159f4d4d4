"""Input files split into units of work, and the records of a unit.

A unit is a stretch of one file. Units depend on the input only, not on the number of workers, and each unit becomes its
own shards. So any number of workers, on any number of machines, writes the same bytes, and a killed run loses only the
units in progress.
"""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from data_prep.reading.inputs import inside, names_of, open_input
from data_prep.reading.parquet_files import check_rows, first_line, group_batches, open_parquet

UNIT_ROWS = 2_048
"""Rows of a unit."""

UNIT_BYTES = 256 * 2**20
"""Uncompressed bytes after which a unit of a Parquet file ends, so that shards have similar sizes for any images."""

BATCH_ROWS = 128
"""Records that are read, transformed and tokenised together."""

BATCH_BYTES = 32 * 2**20
"""Bytes of a batch; with large images it has fewer records."""

LINE_SUFFIXES = (".jsonl", ".ndjson")
"""Files with one record per line, whatever the first line looks like."""

LONGEST_RECORD = 64 * 2**20
"""Bytes of one JSON record; a longer one is rejected, and never held in memory."""

MOST_VALUES = 2**20
"""Values of one JSON record, since a list of numbers takes many times its text in memory."""


@dataclass(frozen=True)
class InputUnit:
    """A stretch of one input file."""

    number: int
    file: str
    kind: str
    """`parquet`, `jsonl`, `json`, `unreadable`, or one of `formats.READERS`."""
    start: int
    """First row group of a Parquet file; byte offset otherwise."""
    stop: int
    """End of the row groups, exclusive; otherwise the number of records."""
    first: int
    """Ordinal of the first record over all inputs."""
    rows: int
    """Number of records."""
    note: str = ""
    """Why the file is unreadable."""
    name: str = ""
    """The file's name for rejects, relative to the folder that all inputs have in common."""
    before: int = 0
    """Records of the file before this unit."""


@dataclass(frozen=True)
class Broken:
    """A record that cannot be read."""

    reason: str
    detail: str
    remedy: str = "Fetch the file again."


def plan_units(
    files: Sequence[str], *, unit_rows: int = UNIT_ROWS, unit_bytes: int = UNIT_BYTES, limit: int | None = None
) -> list[InputUnit]:
    """All units of the files, in order.

    Args:
        unit_rows: records of a unit; a Parquet unit ends with the row group in which it reaches this number.
        unit_bytes: uncompressed bytes at which a Parquet unit ends earlier.
        limit: read at most this many records.
    """
    units: list[InputUnit] = []
    first = 0
    for file, name in zip(files, names_of(files), strict=True):
        before = first
        for kind, start, stop, rows, note in _stretches(file, unit_rows, unit_bytes):
            if limit is not None:
                rows = min(rows, limit - first)
            if rows > 0:
                units.append(InputUnit(len(units), file, kind, start, stop, first, rows, note, name, first - before))
                first += rows
            if limit is not None and first >= limit:
                return units
    return units


def _stretches(file: str, unit_rows: int, unit_bytes: int) -> Iterator[tuple[str, int, int, int, str]]:
    try:
        if inside(file).endswith(".parquet"):
            yield from _parquet_stretches(file, unit_rows, unit_bytes)
            return
        from data_prep.reading.formats import stretches

        if (found := stretches(file, unit_rows, unit_bytes)) is not None:
            yield from found
            return
        with open_input(file) as stream:
            head = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            stream.seek(0)
            as_list = head.startswith(b"[") and not inside(file).removesuffix(".gz").removesuffix(".zst").endswith(
                LINE_SUFFIXES
            )
            spans = _list_spans(stream, 0, False) if as_list else _line_spans(stream, 0)
            start, rows = 0, 0
            for offset, raw in spans:
                if raw is _AFTER_LIST:  # only found by reading an element before it
                    rows += 1
                    continue
                if rows == unit_rows:
                    yield ("json" if as_list else "jsonl"), start, rows, rows, ""
                    rows = 0
                if rows == 0:
                    start = offset
                rows += 1
            if rows:
                yield ("json" if as_list else "jsonl"), start, rows, rows, ""
    except (OSError, pa.ArrowException, EOFError, zlib.error) as error:
        yield "unreadable", 0, 0, 1, first_line(error)


def _parquet_stretches(file: str, unit_rows: int, unit_bytes: int) -> Iterator[tuple[str, int, int, int, str]]:
    with open_parquet(file) as parquet:
        metadata = parquet.metadata
        start, rows, size = 0, 0, 0
        for group in range(metadata.num_row_groups):
            check_rows(metadata, group)
            rows += metadata.row_group(group).num_rows
            size += metadata.row_group(group).total_byte_size
            if rows >= unit_rows or size >= unit_bytes or group + 1 == metadata.num_row_groups:
                yield "parquet", start, group + 1, rows, ""
                start, rows, size = group + 1, 0, 0


def read_unit(unit: InputUnit) -> Iterator[tuple[int, Any]]:
    """The records of a unit as (ordinal, record), `Broken` for one that cannot be read.

    Always yields exactly `unit.rows` items, so that every record is counted.
    """
    for batch in read_batches(unit):
        yield from batch


def read_batches(unit: InputUnit) -> Iterator[list[tuple[int, Any]]]:
    """The items of `read_unit` in batches, which depend on the input only."""
    count = 0
    if unit.kind == "unreadable":
        yield [(unit.first, Broken("file-unreadable", f"the file cannot be read ({unit.note})"))]
        return
    try:
        from data_prep.reading.formats import READERS

        for records in (_READERS | READERS)[unit.kind](unit):
            batch = list(enumerate(records[: unit.rows - count], unit.first + count))
            if batch:
                yield batch
            count += len(batch)
            if count == unit.rows:
                return
        error_text = "the file ends early"
    except (OSError, pa.ArrowException, EOFError, zlib.error) as error:
        error_text = first_line(error)
    broken = Broken("file-unreadable", f"the file breaks off here ({error_text})")
    for start in range(count, unit.rows, BATCH_ROWS):
        yield [(unit.first + i, broken) for i in range(start, min(start + BATCH_ROWS, unit.rows))]


def _read_parquet(unit: InputUnit) -> Iterator[list[Any]]:
    with open_parquet(unit.file) as parquet:
        # By row group, because a batch that spans two would be copied.
        for group in range(unit.start, unit.stop):
            metadata = parquet.metadata.row_group(group)
            rows = BATCH_BYTES * metadata.num_rows // (metadata.total_byte_size or 1)
            for batch in group_batches(parquet, unit.file, group, None, max(1, min(BATCH_ROWS, rows))):
                try:
                    yield batch.to_pylist()
                except (pa.ArrowException, ValueError):  # a text that is not UTF-8: find its row
                    yield [_one_row(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _one_row(batch: pa.RecordBatch) -> Any:
    try:
        return batch.to_pylist()[0]
    except (pa.ArrowException, ValueError) as error:
        return Broken("bad-text", f"the record cannot be decoded ({error})")


def _read_jsonl(unit: InputUnit) -> Iterator[list[Any]]:
    with open_input(unit.file) as stream:
        yield from _parsed(_line_spans(stream, unit.start))


def _read_json(unit: InputUnit) -> Iterator[list[Any]]:
    with open_input(unit.file) as stream:
        yield from _parsed(_list_spans(stream, unit.start, unit.start > 0))


def _parsed(spans: Iterator[tuple[int, bytes | Broken]]) -> Iterator[list[Any]]:
    """The records of the spans in batches, including those before a read error."""
    batch: list[Any] = []
    size = 0
    try:
        for _, raw in spans:
            batch.append(raw if isinstance(raw, Broken) else parse_record(raw))
            size += 0 if isinstance(raw, Broken) else len(raw)
            if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except (OSError, EOFError, zlib.error):
        yield batch
        raise
    yield batch


_READERS = {"parquet": _read_parquet, "jsonl": _read_jsonl, "json": _read_json}


def parse_record(raw: bytes) -> Any:
    """A record from its JSON text, or `Broken`."""
    if len(raw) > LONGEST_RECORD:
        return _too_long()
    # Counted only in records that are long enough.
    if len(raw) > MOST_VALUES and raw.count(b",") + raw.count(b"[") > MOST_VALUES:
        return Broken("record-too-long", f"more than {MOST_VALUES:,} values in one record")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        return Broken("bad-json", f"the record is not valid JSON ({error})")


def _too_long() -> Broken:
    return Broken("record-too-long", f"more than {LONGEST_RECORD:,} bytes in one record", "Split it, or leave it out.")


def _line_spans(stream: Any, start: int) -> Iterator[tuple[int, bytes | Broken]]:
    """(offset, line) of every line that is not blank; a line that is too long is never held in memory."""
    stream.seek(start)
    offset = start
    while line := stream.readline(LONGEST_RECORD + 1):
        begun, long = offset, len(line) > LONGEST_RECORD
        offset += len(line)
        while long and line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
            offset += len(line)
        if long:
            yield begun, _too_long()
        elif line.strip():
            yield begun, line.removeprefix(b"\xef\xbb\xbf")


_AFTER_LIST = Broken(
    "file-unreadable",
    "the file continues after the end of its list, and that part was not read",
    "Write one list, or one record per line in a .jsonl file.",
)

_STRUCTURE = re.compile(rb'[\\"{}\[\],]')
_CHUNK = 1 << 20


def _list_spans(stream: Any, start: int, inside: bool) -> Iterator[tuple[int, bytes | Broken]]:
    """(offset, text) of every element of a JSON list, found without parsing it.

    Parsing a list of a million records at once would take many times its size in memory. An element that is cut off by
    the end of the file is yielded as it is, for the parser to reject. Anything after the end of the list is one broken
    record.

    Args:
        start: 0, or the offset of an element.
        inside: whether `start` is the offset of an element.
    """
    stream.seek(start)
    depth, in_string, skip = (1 if inside else 0), False, -1
    at, element, begun = start, bytearray(), start
    while chunk := stream.read(_CHUNK):
        kept = 0
        for match in _STRUCTURE.finditer(chunk):
            place = match.start()
            if at + place == skip:
                continue
            symbol = chunk[place]
            if in_string:
                if symbol == 0x5C:  # backslash: skip the next character
                    skip = at + place + 1
                elif symbol == 0x22:
                    in_string = False
            elif symbol == 0x22:
                in_string = True
            elif symbol in b"{[":
                depth += 1
                if depth == 1:
                    kept, begun = place + 1, at + place + 1
            elif symbol in b"]}" or (symbol == 0x2C and depth == 1):
                if depth == 1:
                    if len(element) <= LONGEST_RECORD:
                        element += chunk[kept:place]
                    if element.strip():
                        yield begun, _whole(element)
                    element.clear()
                    kept, begun = place + 1, at + place + 1
                if symbol != 0x2C:
                    depth -= 1
                    if depth == 0:
                        rest = chain([chunk[place + 1 :]], iter(partial(stream.read, _CHUNK), b""))
                        if any(more.strip() for more in rest):
                            yield at + place + 1, _AFTER_LIST
                        return
        if len(element) <= LONGEST_RECORD:
            element += chunk[kept:]
        at += len(chunk)
    if element.strip():
        yield begun, _whole(element)


def _whole(element: bytearray) -> bytes | Broken:
    """An element of a list; one that is too long was not kept completely."""
    return _too_long() if len(element) > LONGEST_RECORD else bytes(element)
