"""Third-party Parquet files, read in batches with bounded memory.

A small file may expand to gigabytes: a page of zeros compresses a thousandfold, and a dictionary stores a value once
that every row repeats. Both can be seen in the file's metadata.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.reading.inputs import open_input

READ_BYTES = 2**16
"""Bytes read at a time from a local Parquet file."""

BOMB_BYTES = 2**29
"""Uncompressed bytes of a column chunk above which it must not be compressed by more than `BOMB_RATIO`."""

BOMB_RATIO = 100
"""Text rarely compresses more than tenfold; images do not compress."""

REPEATED_BYTES = 2**29
"""Most bytes of dictionary values in a batch, if every row had the largest one."""

EXPANDED_BYTES, MOST_REPEATS = 2**32, 20
"""Bytes of the rows of a row group, or of a stretch of an Arrow file, above which they must not take more than
`MOST_REPEATS` times what is stored: reading a large value again and again takes minutes."""

MANY_ROWS = 2**20
"""Rows of a row group above which each must take at least a byte in the file."""


@contextmanager
def open_parquet(file: str | PathLike[str]) -> Iterator[pq.ParquetFile]:
    """A local or remote Parquet file.

    A local one is read by Arrow in small pieces: fetching a row group first, as for a remote one, would cost a copy.
    """
    if "://" in str(file):
        with open_input(str(file)) as stream, pq.ParquetFile(stream) as parquet:
            yield parquet
    else:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as parquet:
            yield parquet


def bounded_batches(
    parquet: pq.ParquetFile, file: str | PathLike[str], columns: Sequence[str] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """All batches of a file, of at most `rows` rows each.

    Raises:
        pa.ArrowInvalid: see `group_batches`.
    """
    for group in range(parquet.num_row_groups):
        yield from group_batches(parquet, file, group, columns, rows)


def group_batches(
    parquet: pq.ParquetFile, file: str | PathLike[str], group: int, columns: Sequence[str] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """The batches of one row group, of at most `rows` rows each.

    Raises:
        pa.ArrowInvalid: see `group_rows`; or its rows take far more memory than what is stored.
    """
    size = group_rows(parquet, file, group, rows)
    stored, expanded = parquet.metadata.row_group(group).total_byte_size, 0
    for batch in parquet.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
        expanded += expanded_bytes(batch)
        check_expanded(f"row group {group}", stored, expanded)
        yield batch


def group_rows(parquet: pq.ParquetFile, file: str | PathLike[str], group: int, most: int) -> int:
    """How many rows of a row group may be read at once.

    Raises:
        pa.ArrowInvalid: it claims rows that it cannot have, or a column expands to far more than plausible.
    """
    metadata = parquet.metadata.row_group(group)
    check_rows(parquet.metadata, group)
    repeated = 0
    for place in range(metadata.num_columns):
        column = metadata.column(place)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        check_ratio(f"row group {group}, column {column.path_in_schema}", packed, size)
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
            values = -(-column.num_values // max(1, metadata.num_rows))  # per row, on average
            repeated += values * _dictionary_bytes(file, column.dictionary_page_offset, column.total_uncompressed_size)
    return max(1, min(most, REPEATED_BYTES // max(1, repeated)))


def check_rows(metadata: pq.FileMetaData, group: int) -> None:
    """Refuse a row group that claims more rows than it can have.

    Raises:
        pa.ArrowInvalid: naming the row group.
    """
    found = metadata.row_group(group)
    packed = sum(found.column(place).total_compressed_size for place in range(found.num_columns))
    if not 0 <= found.num_rows <= max(MANY_ROWS, packed):
        raise pa.ArrowInvalid(f"row group {group} claims {found.num_rows:,} rows in {packed:,} bytes; refused")


def check_ratio(what: str, packed: int, size: int) -> None:
    """Refuse data that expands to far more memory than plausible.

    Raises:
        pa.ArrowInvalid: naming `what`.
    """
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
        raise pa.ArrowInvalid(f"{what}: {packed:,} bytes unpack to {size:,}; refused")


def expanded_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of a batch as records, with each repeated dictionary value counted."""
    size = batch.nbytes
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray):
            with suppress(pa.ArrowException):  # values of other types are small
                lengths = pc.binary_length(column.dictionary)
                size += pc.sum(lengths.take(column.indices)).as_py() or 0
    return int(size)


def check_expanded(what: str, stored: int, expanded: int) -> None:
    """Refuse rows that repeat values too often to be read in reasonable time.

    Raises:
        pa.ArrowInvalid: naming `what`.
    """
    if expanded > max(EXPANDED_BYTES, MOST_REPEATS * stored):
        raise pa.ArrowInvalid(f"{what}: its rows repeat {stored:,} bytes to more than {expanded:,}; refused")


def _dictionary_bytes(file: str | PathLike[str], offset: int, otherwise: int) -> int:
    """Uncompressed bytes of a dictionary page, from its header; `otherwise` when it cannot be read."""
    with open_input(str(file)) as stream:
        stream.seek(offset)
        head = stream.read(32)
    found: list[int] = []
    at = 0
    # Thrift's compact protocol: fields 1 to 3 are the page's type, its uncompressed and its compressed size.
    while len(found) < 2 and head[at : at + 1] == b"\x15":
        value, shift, at = 0, 0, at + 1
        while at < len(head):
            value |= (head[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if head[at - 1] < 0x80:
                break
        found.append(value >> 1)  # zigzag; sizes are not negative
    return found[1] if len(found) == 2 else otherwise


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [repr(error)])[0]
