"""Parquet files of strangers, read in batches whose memory is known before it is taken.

A small file may describe gigabytes: a page of zeros compresses a thousandfold, and a dictionary holds a value once that
every row repeats. Both show in the file's own metadata.
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
"""Uncompressed bytes of a column of a row group from which it must not be compressed by more than `BOMB_RATIO`."""

BOMB_RATIO = 100
"""Texts compress tenfold, seldom more; images do not compress."""

REPEATED_BYTES = 2**29
"""Bytes of a batch that values of dictionaries may take, were every row to hold the largest one possible."""

EXPANDED_BYTES, MOST_REPEATS = 2**32, 20
"""Bytes of the rows of a row group, or of a stretch of an Arrow file, above which they must not take more than
`MOST_REPEATS` times what is stored: to read a large value again and again takes minutes."""

MANY_ROWS = 2**20
"""Rows of a row group that have more than a byte each in the file, however often they repeat."""


@contextmanager
def open_parquet(file: str | PathLike[str]) -> Iterator[pq.ParquetFile]:
    """A local or remote Parquet file.

    A local one is read by Arrow itself in small pieces: fetching a whole row group first, which pays for a remote one,
    costs a copy.
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
        pa.ArrowInvalid: a row group takes far more memory than the file's size explains; see `group_batches`.
    """
    for group in range(parquet.num_row_groups):
        yield from group_batches(parquet, file, group, columns, rows)


def group_batches(
    parquet: pq.ParquetFile, file: str | PathLike[str], group: int, columns: Sequence[str] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """The batches of one row group, of at most `rows` rows each.

    Raises:
        pa.ArrowInvalid: as `group_rows`; or its rows take far more than what is stored.
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
        pa.ArrowInvalid: it claims rows that it cannot have, or a column of it is compressed beyond belief.
    """
    metadata = parquet.metadata.row_group(group)
    check_rows(parquet.metadata, group)
    repeated = 0
    for place in range(metadata.num_columns):
        column = metadata.column(place)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        check_ratio(f"row group {group}, column {column.path_in_schema}", packed, size)
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
            values = -(-column.num_values // max(1, metadata.num_rows))  # of a row, on average
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
    """Refuse what unpacks to far more memory than its size explains.

    Raises:
        pa.ArrowInvalid: naming `what`.
    """
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
        raise pa.ArrowInvalid(f"{what}: {packed:,} bytes unpack to {size:,}; refused")


def expanded_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of a batch as records, each with a value of its own where the batch repeats one of a dictionary."""
    size = batch.nbytes
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray):
            with suppress(pa.ArrowException):  # values of another kind are small
                lengths = pc.binary_length(column.dictionary)
                size += pc.sum(lengths.take(column.indices)).as_py() or 0
    return int(size)


def check_expanded(what: str, stored: int, expanded: int) -> None:
    """Refuse rows that repeat values beyond what can be read in sensible time.

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
    # Thrift's compact protocol: the fields 1 to 3 are the page's kind, its uncompressed and its compressed size.
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
    """What an error says, in a line."""
    return (str(error).splitlines() or [repr(error)])[0]
