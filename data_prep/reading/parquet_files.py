"""Parquet files of strangers, read in batches whose memory is known before it is taken.

A small file may describe gigabytes: a page of zeros compresses a thousandfold, and a dictionary holds a value once that
every row repeats. Both show in the file's own metadata.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

import pyarrow as pa
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
        pa.ArrowInvalid: a row group takes far more memory than the file's size explains; see `group_rows`.
    """
    for group in range(parquet.num_row_groups):
        size = group_rows(parquet, file, group, rows)
        yield from parquet.iter_batches(size, row_groups=[group], columns=columns, use_threads=False)


def group_rows(parquet: pq.ParquetFile, file: str | PathLike[str], group: int, most: int) -> int:
    """How many rows of a row group may be read at once.

    Raises:
        pa.ArrowInvalid: a column of it is compressed beyond belief.
    """
    metadata = parquet.metadata.row_group(group)
    repeated = 0
    for place in range(metadata.num_columns):
        column = metadata.column(place)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        if size > BOMB_BYTES and size > BOMB_RATIO * packed:
            raise pa.ArrowInvalid(
                f"row group {group}, column {column.path_in_schema}: {packed:,} bytes unpack to {size:,}; refused"
            )
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
            values = -(-column.num_values // max(1, metadata.num_rows))  # of a row, on average
            repeated += values * _dictionary_bytes(file, column.dictionary_page_offset, column.total_uncompressed_size)
    return max(1, min(most, REPEATED_BYTES // max(1, repeated)))


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
