"""Tasks to Parquet shards and a manifest, so that a killed run never looks like a finished one.

A shard is written under a temporary name and renamed when it is whole; `manifest.json` is written last and marks the
folder as complete. Row groups are cut by bytes, not by rows: a reader holds a row group in memory, and images differ
in size by a factor of a thousand.

Text columns are compressed, images are not: JPEG and PNG do not shrink further, and trying costs most of the time.
"""

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.reading.inputs import InputError
from data_prep.tasks.row import HasRow, Row, row_bytes, row_schema, rows_batch

FORMAT_VERSION = 4
"""Raised when rows or the manifest change: what an older version began is not finished by a newer one."""

GROUP_BYTES = 32 * 2**20
"""Target size of a row group: well below the 100 MB that the Hub's viewer takes, since a writer holds one in memory."""

SHARD_BYTES = 512 * 2**20
"""Target size of a shard."""

MANIFEST = "manifest.json"


CHECKED_BYTES = 2**20
"""Bytes read at a time for a checksum: few enough to stay in a core's cache, and few calls that want Python's lock."""


class ShardWriter:
    """One shard: rows in, row groups of bounded size out, whole file or nothing.

    Use as a context manager. Leaving it by an exception removes the temporary file.

    Args:
        embedded: whether images stand in the file.
        group_bytes: target size of a row group.
        checked: whether to take the file's checksum, which is done as it grows.
    """

    def __init__(
        self,
        path: Path,
        *,
        embedded: bool = True,
        group_bytes: int = GROUP_BYTES,
        checked: bool = True,
    ) -> None:
        self.path = path
        self.xxh3_128: str | None = None
        """Checksum of the closed file, in hex."""
        self.rows = 0
        self.bytes = 0
        self._embedded = embedded
        self._schema = row_schema(embedded=embedded)
        self._group_bytes = group_bytes
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._settled: list[pa.RecordBatch] = []
        self._settled_bytes = 0
        self._temporary = temporary_name(path)
        self._writer: pq.ParquetWriter | None = None
        self._checksum = xxhash.xxh3_128() if checked else None
        self._written: io.FileIO | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row, a dict that fits `row_schema()`."""
        self.extend([Row.of(row)])

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for row in rows:
            size = row_bytes(row)
            if self._pending and self._pending_bytes + size > self._group_bytes:
                self.settle()
                self._flush()
            self._pending.append(row)
            self._pending_bytes += size
            self.bytes += size
            self.rows += 1

    def settle(self) -> None:
        """Turn the rows added since the last call into Arrow columns.

        Called after the rows of one batch that was read: then their images lie in one buffer and need not be copied,
        and a shard that gets few of a batch's rows does not keep the whole batch in memory. A row group ends before
        the batch that would make it too large.
        """
        if not self._pending:
            return
        if self._settled_bytes + self._pending_bytes > self._group_bytes:
            self._flush()
        self._settled.append(rows_batch(self._pending, embedded=self._embedded))
        self._settled_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0

    def _flush(self) -> None:
        """Write the settled rows as a row group."""
        if not self._settled:
            return
        group = pa.Table.from_batches(self._settled, self._schema)
        self._settled, self._settled_bytes = [], 0
        self._file().write_table(group, row_group_size=group.num_rows)
        self._check_new()

    def _check_new(self) -> None:
        """Take what was written since the last call into the checksum; a Parquet file only ever grows."""
        if self._checksum is None:
            return
        if self._written is None:
            self._written = io.FileIO(self._temporary)
        _update(self._checksum, self._written)

    def _file(self) -> pq.ParquetWriter:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, **WRITER_OPTIONS)
        return self._writer

    def close(self) -> None:
        """Finish the file and give it its name."""
        self.settle()
        self._flush()
        self._file().close()
        self._check_new()
        if self._checksum is not None and self._written is not None:
            self._written.close()
            self.xxh3_128 = self._checksum.hexdigest()
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._written is not None:
            self._written.close()
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


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
    # Rows after which a page may end: with the usual 1,024 a page of images would be as large as its row group.
    "write_batch_size": 32,
}
"""Fixed, so that equal rows give equal bytes."""


def file_checksum(path: Path) -> str:
    """The XXH3 checksum of a file, 128 bits in hex, as `xxhsum -H2` prints it; read in pieces."""
    checksum = xxhash.xxh3_128()
    with io.FileIO(path) as stream:
        _update(checksum, stream)
    return checksum.hexdigest()


def _update(checksum: xxhash.xxh3_128, stream: io.FileIO) -> None:
    """Take the rest of a file into a checksum."""
    buffer = memoryview(bytearray(CHECKED_BYTES))
    while count := stream.readinto(buffer):
        checksum.update(buffer[:count])


def temporary_name(path: Path) -> Path:
    """Where a file is written before it gets its name; no two threads share it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys, under a temporary name first, so that the file is whole or absent."""
    temporary = temporary_name(path)
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def require_current(folder: Path) -> None:
    """Refuse a folder that an older version wrote.

    Raises:
        InputError: its manifest has an older format; the message holds the command that makes the folder again.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest.get("format")
    except (OSError, ValueError, AttributeError):
        return  # no manifest, or a damaged one, which `validate` names
    if isinstance(version, int) and version < FORMAT_VERSION:
        settings = manifest.get("settings")
        source = settings.get("source", "SOURCE") if isinstance(settings, dict) else "SOURCE"
        raise InputError(
            f"{folder} was written by an older version (format {version}, now {FORMAT_VERSION}); make it again:"
            f" critic-r1 prepare {source} --input FILES --output {folder} --overwrite"
        )


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
        tasks: anything that gives its row by `flat()`.
        settings: what produced the tasks; stored in the manifest.
        shard_bytes: a new shard begins when this many bytes are reached.

    Raises:
        ValueError: one image stands in two splits, or there was no task at all.
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
        shards.append({"file": shard.path.name, "split": split, "rows": shard.rows, "xxh3_128": shard.xxh3_128})

    try:
        for task in tasks:
            row = task.flat()
            split = row.split
            for digest in row.image_blake3 or ():
                if home.setdefault(digest, split) != split:
                    raise ValueError(
                        f"image {digest[:12]} stands in the splits {home[digest]} and {split}: rows would leak from"
                        " one to the other; split by image, not by row"
                    )
            if split not in open_shards:
                path = folder / f"{split}-{numbers[split]:05d}.parquet"
                numbers[split] += 1
                open_shards[split] = ShardWriter(path, embedded=embedded, group_bytes=group_bytes)
            open_shards[split].extend([row])
            labels.setdefault(f"{split} {row.data_source}", Counter())[row.ground_truth] += 1
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
