"""Tasks to Parquet shards and a manifest, so that a killed run never looks like a finished one.

A shard is written under a temporary name and renamed when it is whole; `manifest.json` is written last and marks the
folder as complete. Row groups are cut by bytes, not by rows: a reader holds a row group in memory, and pictures differ
in size by a factor of a thousand.

Text columns are compressed, pictures are not: JPEG and PNG do not shrink further, and trying costs most of the time.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.task import EMBEDDED_IMAGES, row_schema
from data_prep.views import binary_array

FORMAT_VERSION = 1
"""Raised when rows or the manifest change in a way that old readers would misunderstand."""

GROUP_BYTES = 32 * 2**20
"""Target size of a row group: well below the 100 MB that the Hub's viewer takes, since a writer holds one in memory."""

SHARD_BYTES = 512 * 2**20
"""Target size of a shard."""

MANIFEST = "manifest.json"


class HasRow(Protocol):
    """Anything that knows its Parquet row."""

    def row(self) -> dict[str, Any]: ...


class ShardWriter:
    """One shard: rows in, row groups of bounded size out, whole file or nothing.

    Use as a context manager. Leaving it by an exception removes the temporary file.
    """

    def __init__(self, path: Path, *, embedded: bool = True, group_bytes: int = GROUP_BYTES) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        self._schema = row_schema(embedded=embedded)
        self._group_bytes = group_bytes
        self._pending: list[dict[str, Any]] = []
        self._settled: list[pa.RecordBatch] = []
        self._buffered = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def write(self, row: dict[str, Any]) -> None:
        """Add one row, a dict that fits `row_schema()`."""
        size = row_bytes(row)
        if self._buffered and self._buffered + size > self._group_bytes:
            self._flush()
        self._pending.append(row)
        self._buffered += size
        self.bytes += size
        self.rows += 1

    def settle(self) -> None:
        """Turn the rows added since the last call into Arrow columns.

        Called after the rows of one batch that was read: then their pictures lie in one buffer and need not be copied,
        and a shard that gets few of a batch's rows does not keep the whole batch in memory.
        """
        if self._pending:
            self._settled.append(rows_batch(self._pending, self._schema))
            self._pending = []

    def _flush(self) -> None:
        self.settle()
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, **WRITER_OPTIONS)
        group = pa.Table.from_batches(self._settled, self._schema)
        self._writer.write_table(group, row_group_size=max(1, group.num_rows))
        self._settled, self._buffered = [], 0

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._buffered or self._writer is None:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def rows_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as Arrow columns; pictures that are views of one buffer are not copied."""
    return pa.RecordBatch.from_arrays([_column([row[f.name] for row in rows], f.type) for f in schema], schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == EMBEDDED_IMAGES:
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
        pictures = [picture for row in values for picture in row]
        struct = [binary_array([p["bytes"] for p in pictures]), pa.array([p["path"] for p in pictures], pa.string())]
        inner = pa.StructArray.from_arrays(struct, fields=list(kind.value_type))
        return pa.ListArray.from_arrays(offsets, inner, type=kind)
    if pa.types.is_struct(kind):
        fields = list(kind)
        children = [_column([value[f.name] for value in values], f.type) for f in fields]
        return pa.StructArray.from_arrays(children, fields=fields)
    return pa.array(values, type=kind)


WRITER_OPTIONS: dict[str, Any] = {
    # Per column, by its path in the file.
    "compression": {
        "data_source": "zstd",
        "prompt.list.element.role": "zstd",
        "prompt.list.element.content": "zstd",
        "extra_info.question": "zstd",
        "extra_info.response_1": "zstd",
        "extra_info.response_2": "zstd",
        "extra_info.meta": "zstd",
    },
    "use_dictionary": ["data_source", "ability", "prompt.list.element.role", "extra_info.split", "extra_info.wording"],
    "write_statistics": ["data_source", "ability", "extra_info.index", "extra_info.prompt_tokens"],
}
"""Fixed, so that equal rows give equal bytes."""


def row_bytes(row: Mapping[str, Any]) -> int:
    """About how many bytes a row takes in memory: pictures, texts, and a constant for the rest."""
    pictures = sum(len(i["bytes"]) if isinstance(i, dict) else len(i) for i in row["images"])
    return pictures + 2 * sum(len(m["content"]) for m in row["prompt"]) + 512


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys, under a temporary name first, so that the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _remove_former(folder: Path) -> None:
    """Take away the manifest of an earlier run, then its shards: a stale shard would be read along with new ones."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    names = [Path(s["file"]).name for s in json.loads(manifest.read_text(encoding="utf-8")).get("shards", [])]
    manifest.unlink()
    for name in names:
        (folder / name).unlink(missing_ok=True)


def write_parquet(
    tasks: Iterable[HasRow],
    directory: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    embedded: bool = True,
    shard_bytes: int = SHARD_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> dict[str, Any]:
    """Write tasks into `directory` as `SPLIT-00000.parquet`, ... and a `manifest.json`; returns the manifest.

    Tasks of several splits may be mixed; the order within a split is kept. Manifest and
    shards of an earlier run are removed first, so an interrupted run is never taken for a finished one.

    Args:
        tasks: anything with a `row()` that fits the schema.
        settings: what produced the tasks; stored in the manifest.
        shard_bytes: a new shard begins when this many bytes are reached.

    Raises:
        ValueError: one picture stands in two splits, or there was no task at all.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_former(folder)
    open_shards: dict[str, ShardWriter] = {}
    numbers: Counter[str] = Counter()
    shards: list[dict[str, Any]] = []
    labels: dict[str, Counter[str]] = {}
    home: dict[str, str] = {}

    def finish(split: str) -> None:
        shard = open_shards.pop(split)
        shard.close()
        shards.append({"file": shard.path.name, "split": split, "rows": shard.rows, "sha256": file_sha256(shard.path)})

    try:
        for task in tasks:
            row = task.row()
            split = row["extra_info"]["split"]
            for digest in row["extra_info"]["picture_sha256"]:
                if home.setdefault(digest, split) != split:
                    raise ValueError(
                        f"picture {digest[:12]} stands in the splits {home[digest]} and {split}: rows would leak from"
                        " one to the other; split by picture, not by row"
                    )
            if split not in open_shards:
                path = folder / f"{split}-{numbers[split]:05d}.parquet"
                numbers[split] += 1
                open_shards[split] = ShardWriter(path, embedded=embedded, group_bytes=group_bytes)
            open_shards[split].write(row)
            key = f"{split} {row['data_source']}"
            labels.setdefault(key, Counter())[row["reward_model"]["ground_truth"]] += 1
            if open_shards[split].bytes >= shard_bytes:
                finish(split)
        for split in sorted(open_shards):
            finish(split)
    except BaseException:
        for shard in open_shards.values():
            shard.abort()
        raise
    if not shards:
        raise ValueError(f"no task to write into {folder}: the source yielded nothing")
    shards.sort(key=lambda s: s["file"])
    manifest = {
        "format": FORMAT_VERSION,
        "settings": dict(settings or {}),
        "rows": {s: sum(x["rows"] for x in shards if x["split"] == s) for s in sorted(numbers)},
        "labels": {k: dict(sorted(v.items())) for k, v in sorted(labels.items())},
        "shards": shards,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
