"""Further input formats: CSV and TSV tables, Arrow files, JSON objects with one list of records.

Each format lists its stretches (see `units.plan_units`) and reads a stretch. A stretch of text starts at the byte
offset of its first record, so that a unit does not read what comes before it.
"""

import csv
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa

from data_prep.reading.inputs import inside, open_input
from data_prep.reading.parquet_files import check_expanded, check_ratio, expanded_bytes
from data_prep.reading.units import BATCH_BYTES, BATCH_ROWS, LINE_SUFFIXES, Broken, InputUnit, _list_spans, _parsed
from data_prep.sources.record import parsed_json
from data_prep.sources.reject import Reject

Stretch = tuple[str, int, int, int, str]
"""Kind, start, stop, records and note of a stretch: fields of `InputUnit`."""

PACKED = (".gz", ".zst")

HEAD_BYTES = 2**20
"""Most bytes of a JSON object before its list of records, and after it."""

LONGEST_FIELD = 64 * 2**20
"""Characters of one field of a table: an image as base64 text."""

STRUCTURED = ("images", "image", "conversations", "messages", "history", "responses", "rankings", "scores")
"""Columns of a table that may contain a JSON list."""

csv.field_size_limit(LONGEST_FIELD)


def stretches(file: str, unit_rows: int, unit_bytes: int) -> Iterator[Stretch] | None:
    """The stretches of a file in one of these formats; None for other files.

    Raises:
        OSError: the file cannot be read.
    """
    name = inside(file)
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    if name.endswith((".csv", ".tsv")):
        return _table_stretches(file, "csv" if name.endswith(".csv") else "tsv", unit_rows)
    if name.endswith(".arrow"):
        return _arrow_stretches(file, unit_rows, unit_bytes)
    if not name.endswith(LINE_SUFFIXES) and (found := _list_in_object(file)) is not None:
        return _object_stretches(file, found, unit_rows) if found >= 0 else iter([("no-list", 0, 0, 1, "")])
    return None


# JSON objects with one list of records


_KEY = re.compile(r'[\s,]*"(?:[^"\\]|\\.)*+"\s*:\s*')
_RECORDS = re.compile(r"\[\s*\{")


def _list_begins(head: bytes, at: int) -> int | None:
    """Offset of the first list of objects in an object; small values of any kind may come before it.

    Args:
        at: offset of the object's opening brace.
    """
    text = head.decode("latin-1")  # one character per byte
    at += 1
    while key := _KEY.match(text, at):
        at = key.end()
        if _RECORDS.match(text, at):
            return at
        try:
            _, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
    return None


def _list_in_object(file: str) -> int | None:
    """Offset of the list of records in a JSON object; -1 for an object without one, None for anything else, such as a
    file with one record per line."""
    with open_input(file) as stream:
        head = stream.read(HEAD_BYTES)
        blank = len(head) - len(head.lstrip(b"\xef\xbb\xbf \t\r\n"))
        if head[blank : blank + 1] != b"{":
            return None
        first, newline, rest = head[blank:].partition(b"\n")
        begins = _list_begins(head, blank)
        if not newline and len(head) == HEAD_BYTES:  # one long line: one record, or all of them
            if begins is None or re.search(rb'"(?:from|role|type)"\s*:', head[begins : begins + 400]):
                return None
            return begins
        if _is_object(first) and (rest.strip() or begins is None or _is_record(first)):
            return None
        return -1 if begins is None else begins


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_record(text: bytes) -> bool:
    """Whether an object is itself a record: its lists contain turns or parts, or no objects."""
    lists = [value for value in json.loads(text).values() if isinstance(value, list) and value]
    entries = [entry for value in lists for entry in value[:1] if isinstance(entry, dict)]
    return not entries or any({"from", "role", "type"} & entry.keys() for entry in entries)


def _object_spans(stream: Any, start: int, inside: bool) -> Iterator[tuple[int, bytes | Broken]]:
    """The elements of the list; the rest of the object must be valid and contain no other list of records."""
    for offset, raw in _list_spans(stream, start, inside):
        if not isinstance(raw, Broken) or not _is_after_list(raw):
            yield offset, raw
            continue
        stream.seek(offset)
        rest = stream.read(HEAD_BYTES).strip()
        try:
            after = json.loads(b"{" + rest.removeprefix(b",")) if rest.startswith((b",", b"}")) else None
        except (ValueError, RecursionError):
            after = None
        if after is None:
            yield offset, raw
        elif more := [k for k, v in after.items() if isinstance(v, list) and v and isinstance(v[0], dict)]:
            detail = f"the object holds another list of records, {', '.join(more)[:100]}"
            yield offset, Broken(raw.reason, detail, "Write each list to its own file.")


def _object_stretches(file: str, start: int, unit_rows: int) -> Iterator[Stretch]:
    with open_input(file) as stream:
        # The first unit starts at the bracket of the list, the others at an element.
        begun, rows = start, 0
        for offset, raw in _object_spans(stream, start, False):
            # An error after the list is only found by reading an element before it.
            if rows == unit_rows and not _is_after_list(raw):
                yield "object", begun, rows, rows, ""
                begun, rows = offset, 0
            rows += 1
        if rows:
            yield "object", begun, rows, rows, ""


def _is_after_list(raw: bytes | Broken) -> bool:
    return isinstance(raw, Broken) and raw.reason == "file-unreadable"


def _read_object(unit: InputUnit) -> Iterator[list[Any]]:
    with open_input(unit.file) as stream:
        yield from _parsed(_object_spans(stream, unit.start, unit.before > 0))


def _read_no_list(unit: InputUnit) -> Iterator[list[Any]]:
    remedy = "Write the records as one list, or one per line in a .jsonl file."
    yield [Broken("file-unreadable", "the file is one JSON object without a list of records", remedy)]


# CSV and TSV tables


class _Lines:
    """The lines of a stream for a `csv.reader`, with their offsets."""

    def __init__(self, stream: Any, offset: int) -> None:
        self._stream = stream
        self.offset = self.begun = offset
        """Offsets of the next line and of the current row."""
        stream.seek(offset)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LONGEST_FIELD + 1)
        if not line:
            raise StopIteration
        self.offset += len(line)
        if self.offset - self.begun > LONGEST_FIELD:  # a row is held in memory
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(HEAD_BYTES)
                self.offset += len(line)
            raise csv.Error(f"it has more than {LONGEST_FIELD:,} bytes")
        return str(line, "utf-8-sig" if self.offset == len(line) else "utf-8", "surrogateescape")


def _table_rows(stream: Any, kind: str, start: int) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    """(offset, record) from the record at `start`, or from the first."""
    delimiter = "," if kind == "csv" else "\t"
    lines = _Lines(stream, 0)
    try:
        names = next(csv.reader(lines, delimiter=delimiter), [])
        "".join(names).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        yield 0, Broken("bad-row", f"the first line of the table cannot be read ({error})", "Save it as UTF-8.")
        return
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        yield 0, Broken("bad-row", f"the table has several columns {', '.join(repeated)[:100]}", "Rename them.")
        return
    lines = _Lines(stream, start or lines.offset)
    # Strict, because an open quote would otherwise swallow all rows that follow.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        offset = lines.begun = lines.offset
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield offset, Broken("bad-row", f"the row cannot be read ({error})", "Quote fields as in RFC 4180.")
            continue
        if not values:
            continue
        if len(values) != len(names):
            detail = f"the row has {len(values)} fields, and the table has {len(names)} columns"
            yield offset, Broken("bad-row", detail, "Quote fields that contain the delimiter or line breaks.")
            continue
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            yield offset, Broken("bad-text", "the row is not UTF-8 text", "Save the table as UTF-8.")
            continue
        yield offset, {name: _field(name, value) for name, value in zip(names, values, strict=True)}


def _field(name: str, value: str) -> Any:
    """A field of a table; None for an empty one."""
    if name in STRUCTURED and value.lstrip()[:1] == "[":
        with suppress(Reject):
            return parsed_json(value, name)
    return value or None


def _table_stretches(file: str, kind: str, unit_rows: int) -> Iterator[Stretch]:
    with open_input(file) as stream:
        begun, rows = 0, 0
        for offset, _ in _table_rows(stream, kind, 0):
            if rows == unit_rows:
                yield kind, begun, rows, rows, ""
                rows = 0
            if rows == 0:
                begun = offset
            rows += 1
        if rows:
            yield kind, begun, rows, rows, ""


def _read_table(unit: InputUnit) -> Iterator[list[Any]]:
    with open_input(unit.file) as stream:
        batch: list[Any] = []
        begun = 0
        for offset, record in _table_rows(stream, unit.kind, unit.start):
            if len(batch) == BATCH_ROWS or (batch and offset - begun > BATCH_BYTES):
                yield batch
                batch = []
            begun = begun if batch else offset
            batch.append(record)
        yield batch


# Arrow files of `datasets.save_to_disk`


def _arrow_batches(file: str) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream or file; a local one is memory-mapped, so that skipped batches cost nothing."""
    with _arrow_source(file) as source:
        if source.read(6) == b"ARROW1":
            opened = pa.ipc.open_file(source)
            yield from (opened.get_batch(i) for i in range(opened.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def _arrow_source(file: str) -> Any:
    return pa.memory_map(file) if "://" not in file else open_input(file)


def _check_arrow(file: str) -> None:
    """Refuse a file whose compressed buffers expand to far more memory than plausible.

    Raises:
        pa.ArrowInvalid: naming the message.
    """
    with _arrow_source(file) as source:
        source.seek(8 if source.read(6) == b"ARROW1" else 0)  # a file is a stream between a magic and a footer
        for place, message in enumerate(pa.ipc.MessageReader.open_stream(source)):
            try:
                size = sum(_unpacked_sizes(message.metadata.to_pybytes(), message.body))
            except struct.error as error:
                raise pa.ArrowInvalid(f"message {place} is damaged ({error})") from error
            check_ratio(f"message {place}", message.body.size if message.body else 0, size)


def _unpacked_sizes(metadata: bytes, body: pa.Buffer | None) -> Iterator[int]:
    """The uncompressed size of each compressed buffer of an Arrow message, from its Flatbuffers metadata."""

    def at(code: str, place: int) -> int:
        return int(struct.unpack_from(code, metadata, place)[0])

    def field(table: int, number: int) -> int:
        """Offset of a field of a table; 0 when it is absent."""
        entries = table - at("<i", table)
        offset = at("<H", entries + 4 + 2 * number) if 4 + 2 * number < at("<H", entries) else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + at("<I", place) if place else 0

    message = follow(0) or at("<I", 0)
    kind, header = field(message, 1), follow(field(message, 2))
    if kind and header and metadata[kind] == 2:  # a dictionary, which contains a batch
        header = follow(field(header, 1))
    if not kind or not header or metadata[kind] not in (2, 3) or not field(header, 3) or body is None:
        return
    buffers = follow(field(header, 2))
    for place in range(buffers + 4, buffers + 4 + 16 * at("<I", buffers), 16) if buffers else ():
        start, length = at("<q", place), at("<q", place + 8)
        if length >= 8:
            yield max(0, int(struct.unpack("<q", body[start : start + 8])[0]))


def _arrow_stretches(file: str, unit_rows: int, unit_bytes: int) -> Iterator[Stretch]:
    _check_arrow(file)
    start, rows, size, stop = 0, 0, 0, 0
    for stop, batch in enumerate(_arrow_batches(file), 1):
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= unit_rows or size >= unit_bytes:
            yield "arrow", start, stop, rows, ""
            start, rows, size = stop, 0, 0
    if rows:
        yield "arrow", start, stop, rows, ""


def _read_arrow(unit: InputUnit) -> Iterator[list[Any]]:
    stored = expanded = 0
    for place, batch in enumerate(_arrow_batches(unit.file)):
        if place >= unit.stop:
            return
        if place >= unit.start:
            repeated = sum(column.dictionary.nbytes for column in batch.columns if hasattr(column, "dictionary"))
            stored += batch.nbytes
            expanded += expanded_bytes(batch)
            check_expanded(f"batch {place}", stored, expanded)
            row = max(1, repeated, batch.nbytes // max(1, batch.num_rows))  # bytes: the maximum, or the mean
            rows = max(1, min(BATCH_ROWS, BATCH_BYTES // row))
            for first in range(0, batch.num_rows, rows):
                yield _arrow_records(batch.slice(first, rows))


def _arrow_records(batch: pa.RecordBatch) -> list[Any]:
    try:
        records: list[Any] = batch.to_pylist()
        return records
    except (pa.ArrowException, ValueError) as error:
        if batch.num_rows == 1:
            return [Broken("bad-text", f"the record cannot be decoded ({error})")]
        return [record for i in range(batch.num_rows) for record in _arrow_records(batch.slice(i, 1))]


READERS: dict[str, Callable[[InputUnit], Iterator[list[Any]]]] = {
    "object": _read_object,
    "no-list": _read_no_list,
    "csv": _read_table,
    "tsv": _read_table,
    "arrow": _read_arrow,
}
