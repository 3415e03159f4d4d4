"""Images as views of Arrow's own memory, from the column that was read to the column that is written.

An image takes a hundred times the space of its texts, and a conversion only looks at its first and last bytes. So a
record holds a view of the bytes where the Parquet reader put them, every step hands that view on, and when the rows of
a batch reach the writer in their order, the batch's buffer itself becomes the column: no image is ever copied into a
Python object.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

LEAST_VIEW = 4096
"""Bytes from which a value is a view; shorter ones are copied, which costs less than a view does."""


def batch_records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch as `RecordBatch.to_pylist` gives them, but with long binary values as read-only views.

    Raises:
        UnicodeDecodeError: a text is no UTF-8.
    """
    columns = [_values(column) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(array: pa.Array) -> list[Any]:
    kind = array.type
    if not _holds_binary(kind):
        return array.to_pylist()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _binary_values(array)
    valid = array.is_valid().to_pylist() if array.null_count else None
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        children = [_values(array.field(i)) for i in range(kind.num_fields)]
        values: list[Any] = [dict(zip(names, row, strict=True)) for row in zip(*children, strict=True)]
    else:
        offsets = array.offsets.to_pylist()
        first = offsets[0]
        inner = _values(array.values.slice(first, offsets[-1] - first))
        values = [inner[a - first : b - first] for a, b in pairwise(offsets)]
    return values if valid is None else [v if ok else None for v, ok in zip(values, valid, strict=True)]


def _holds_binary(kind: pa.DataType) -> bool:
    """Whether binary values stand in a type at a place that `_values` can reach."""
    if pa.types.is_struct(kind):
        return any(_holds_binary(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_binary(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _binary_values(array: pa.Array) -> list[Any]:
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    _, offsets_buffer, data = array.buffers()
    if data is None or not len(array):
        return array.to_pylist()
    offsets = np.frombuffer(offsets_buffer, width)[array.offset : array.offset + len(array) + 1].tolist()
    memory = memoryview(data).cast("B").toreadonly()
    values: list[Any] = [memory[a:b] if b - a >= LEAST_VIEW else bytes(memory[a:b]) for a, b in pairwise(offsets)]
    if array.null_count:
        values = [v if ok else None for v, ok in zip(values, array.is_valid().to_pylist(), strict=True)]
    return values


def binary_array(values: Sequence[Any]) -> pa.Array:
    """A binary column of bytes and views; without copying when the views lie one behind the other in one buffer.

    Views that are only a small part of their buffer are copied nevertheless: a few rows must not keep a whole batch in
    memory.
    """
    base = values[0].obj if values and isinstance(values[0], memoryview) else None
    if isinstance(base, pa.Buffer) and all(type(v) is memoryview and v.obj is base for v in values):
        lengths = np.array([v.nbytes for v in values])
        starts = np.array([pa.py_buffer(v).address for v in values]) - base.address
        stop = int(starts[-1] + lengths[-1])
        in_order = (starts[1:] == (starts + lengths)[:-1]).all()
        if in_order and 2 * lengths.sum() >= base.size and stop <= np.iinfo(np.int32).max:
            offsets = np.append(starts, stop).astype(np.int32)
            return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets), base])
    return _copied(values)


def _copied(values: Sequence[Any]) -> pa.Array:
    """A binary column with memory of its own.

    Not by `pa.array`, which holds every memoryview that it reads, and so the whole buffer behind it, for ever (seen in
    pyarrow 26.0.1).
    """
    parts = [b"" if v is None else v for v in values]
    offsets = np.cumsum([0, *map(len, parts)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} bytes of images in one column; at most 2 GiB fit")
    valid = pa.array([v is not None for v in values], pa.bool_()).buffers()[1] if None in values else None
    buffers = [valid, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.binary(), len(parts), buffers)
