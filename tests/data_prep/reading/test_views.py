"""Records as views of Arrow's memory must equal the copies that Arrow makes, and go back without being copied."""

from typing import Any

import pyarrow as pa
import pytest

from data_prep.reading.views import LEAST_VIEW, batch_records, binary_array
from data_prep.sources.labels import Labels
from data_prep.sources.record import Options, Reject, read_image
from data_prep.sources.registry import load_source
from data_prep.tasks.pairwise import PreferenceTask
from data_prep.tasks.row import rows_batch

LONG = [bytes([n]) * (LEAST_VIEW + n) for n in range(6)]

COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["a", None, "é"]),
    "binary": pa.array([LONG[0], None, b""], pa.binary()),
    "large binary": pa.array([LONG[0], None, b"x"], pa.large_binary()),
    "struct": pa.array([{"bytes": LONG[1], "path": "p"}, None, {"bytes": None, "path": None}]),
    "list": pa.array([[LONG[2], LONG[3]], None, []], pa.list_(pa.binary())),
    "list of structs": pa.array([[{"bytes": LONG[4]}, None], [], [{"bytes": b"short"}]]),
    "large list": pa.array([[LONG[2]], None, [b"", None]], pa.large_list(pa.binary())),
    "all null": pa.array([None, None, None], pa.binary()),
    "dictionary": pa.array(["x", "y", "x"]).dictionary_encode(),
    "fixed size": pa.array([b"ab", None, b"cd"], pa.binary(2)),
}


def copied(value: Any) -> Any:
    """The same value with every view turned into bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("start", "length"), [(0, 3), (1, 2), (2, 1), (0, 0)])
def test_records_equal_those_of_arrow(name: str, start: int, length: int) -> None:
    batch = pa.RecordBatch.from_arrays([COLUMNS[name], pa.array([1, 2, 3])], [name, "n"]).slice(start, length)
    assert copied(batch_records(batch)) == batch.to_pylist()


def views(count: int = 6, pool: pa.MemoryPool | None = None) -> tuple[pa.Array, list[Any]]:
    array = pa.array(LONG[:count], pa.binary(), memory_pool=pool)
    return array, [r["x"] for r in batch_records(pa.RecordBatch.from_arrays([array], ["x"]))]


@pytest.mark.parametrize(
    ("order", "shared"),
    [
        ([0, 1, 2, 3, 4, 5], True),
        ([1, 2, 3, 4], True),
        ([0, 2, 3, 4, 5], False),  # a gap
        ([1, 0, 2, 3, 4, 5], False),
        ([0, 0, 1, 2, 3, 4], False),  # an image that stands in two rows
        ([2], False),  # a small part must not keep the whole buffer
        ([], False),
    ],
)
def test_only_neighbours_share_their_buffer(order: list[int], shared: bool) -> None:
    array, found = views()
    column = binary_array([found[i] for i in order])
    column.validate(full=True)
    assert column.to_pylist() == [LONG[i] for i in order]
    own = column.buffers()[2]
    assert (own is not None and own.address == array.buffers()[2].address) == shared


def test_views_of_two_batches_and_bytes_mix() -> None:
    (_, one), (_, two) = views(2), views(2)
    assert binary_array([*one, *two, b"x", None]).to_pylist() == [*LONG[:2], *LONG[:2], b"x", None]


def test_a_row_keeps_the_readers_buffer() -> None:
    """From the column that was read to the column that is written, through a source, without a copy."""
    array, found = views()
    records = [{"image": {"bytes": v, "path": None}, "question": "q", "chosen": "a", "rejected": "b"} for v in found]
    items = [item for record in records for item in load_source("spa_vl").convert(record, Options())]
    batch = rows_batch([PreferenceTask(item, 0).flat() for item in items])
    assert batch["images"].values.field(0).buffers()[2].address == array.buffers()[2].address


def test_a_rejects_detail_never_shows_an_address() -> None:
    view = views()[1][0]
    assert read_image(view).data is view
    with pytest.raises(Reject) as caught:
        Labels(base=1).read(view)
    assert caught.value.detail == "the label is a memoryview"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [1, 0, 5], [2]])
def test_no_buffer_outlives_its_column(order: list[int]) -> None:
    """What `pa.array` does with a memoryview: the buffer behind it is never given back, and memory grows with input."""
    # A pool of its own: what other tests leave to the garbage collector does not count.
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    array, found = views(pool=pool)
    column = binary_array([found[i] for i in order])
    assert column.to_pylist() == [LONG[i] for i in order]
    assert pool.bytes_allocated() > 0
    del array, found, column
    assert pool.bytes_allocated() == 0


def test_images_that_are_copied_keep_their_nulls() -> None:
    _, found = views(3)
    column = binary_array([None, found[1], b"", found[0], None])
    column.validate(full=True)
    assert column.to_pylist() == [None, LONG[1], b"", LONG[0], None]
