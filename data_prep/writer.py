"""Tasks to Parquet shards and a manifest, so that a killed run never looks like a finished one.

A shard is written under a temporary name and renamed when it is whole; `manifest.json` is written last and marks the
folder as complete. Row groups are cut by bytes, not by rows: a reader holds a row group in memory, and images differ
in size by a factor of a thousand.

Text columns are compressed, images are not: JPEG and PNG do not shrink further, and trying costs most of the time.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.files import read_json, replacing, write_json
from data_prep.reading.inputs import InputError
from data_prep.tasks.row import HasRow, Row, row_bytes, row_schema, rows_batch

FORMAT_VERSION = 5
"""Raised when rows or the manifest change: what an older version began is not finished by a newer one."""

GROUP_BYTES = 32 * 2**20
"""Target size of a row group: well below the 100 MB that the Hub's viewer takes, since a writer holds one in memory."""

SHARD_BYTES = 512 * 2**20
"""Target size of a shard."""

MANIFEST = "manifest.json"


class ShardWriter:
    """One shard: rows in, row groups of bounded size out, whole file or nothing.

    Use as a context manager. Leaving it by an exception removes the temporary file.

    Args:
        embedded: whether the images are inside the file.
        group_bytes: target size of a row group.
        checked: whether to take the file's checksum.
    """

    def __init__(
        self, path: Path, *, embedded: bool = True, group_bytes: int = GROUP_BYTES, checked: bool = True
    ) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        """About how many bytes the rows take in memory."""
        self._embedded = embedded
        self._schema = row_schema(embedded=embedded)
        self._group_bytes = group_bytes
        self._checked = checked
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._resources = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: Any) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row, a dict that fits `row_schema()`."""
        self.extend([Row.of(row)])

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows; a row group ends before the row that would make it too large."""
        for row in rows:
            size = row_bytes(row)
            if self._pending and self._pending_bytes + size > self._group_bytes:
                self._flush()
            self._pending.append(row)
            self._pending_bytes += size
            self.bytes += size
            self.rows += 1

    def _flush(self) -> None:
        """Write the pending rows as a row group."""
        writer = self._file()
        if self._pending:
            batch = rows_batch(self._pending, embedded=self._embedded)
            writer.write_table(pa.Table.from_batches([batch], self._schema), row_group_size=batch.num_rows)
            self._pending, self._pending_bytes = [], 0

    def _file(self) -> pq.ParquetWriter:
        if self._writer is None:
            temporary = self._resources.enter_context(replacing(self.path))
            writer = pq.ParquetWriter(temporary, self._schema, **WRITER_OPTIONS)
            self._writer = self._resources.enter_context(writer)
        return self._writer

    def close(self) -> dict[str, Any]:
        """Finish the file and give it its name; returns its entry in the manifest, without the split."""
        self._flush()
        self._resources.close()
        checksum = file_checksum(self.path) if self._checked else None
        size = self.path.stat().st_size
        return {"file": self.path.name, "rows": self.rows, "bytes": size, "xxh3_128": checksum}

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(_Aborted), self._resources:
            raise _Aborted


class _Aborted(Exception):
    """Ends a `replacing` block without giving the file its name."""


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
    "use_dictionary": ["data_source", "ability", "prompt.list.element.role", "extra_info.split", "extra_info.template"],
    "write_statistics": ["data_source", "ability", "extra_info.index", "extra_info.prompt_tokens"],
    # Rows after which a page may end: with the usual 1,024 a page of images would be as large as its row group.
    "write_batch_size": 32,
}
"""Fixed, so that equal rows give equal bytes."""


def file_checksum(path: Path) -> str:
    """The XXH3 checksum of a file, 128 bits in hex, as `xxhsum -H2` prints it; read in pieces."""
    checksum = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while piece := stream.read(CHECKED_BYTES):
            checksum.update(piece)
    return checksum.hexdigest()


CHECKED_BYTES = 2**20
"""Bytes read at a time for a checksum."""


def manifest_of(
    identity: Mapping[str, Any],
    shards: Iterable[Mapping[str, Any]],
    labels: Mapping[str, Mapping[str, int]],
    **counts: Any,
) -> dict[str, Any]:
    """What `manifest.json` holds; it is written last and marks the folder as complete.

    Args:
        identity: what the rows were made of: `settings`, and of a conversion also its `inputs`.
        shards: of each its `file`, `split`, `rows`, `bytes` and `xxh3_128`.
        labels: split and source -> label -> rows.
        counts: whatever else there is to say of the rows.
    """
    listed = sorted(shards, key=lambda s: s["file"])
    splits = sorted({s["split"] for s in listed})
    return {
        "format": FORMAT_VERSION,
        **identity,
        **counts,
        "rows": {split: sum(s["rows"] for s in listed if s["split"] == split) for split in splits},
        "labels": {key: dict(sorted(of.items())) for key, of in sorted(labels.items())},
        "shards": listed,
    }


def shard_names(folder: Path) -> list[str]:
    """Names of the shards in a folder's manifest; none that would lead out of the folder.

    Raises:
        ValueError: it is not a manifest.
    """
    try:
        found = read_json(folder / MANIFEST)
        return [name for shard in found["shards"] if (name := str(shard["file"])) == Path(name).name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is not a manifest ({error}); choose another folder") from error


def require_current(folder: Path) -> None:
    """Refuse a folder that an older version wrote.

    Raises:
        InputError: its manifest has an older format; the message holds the command that makes the folder again.
    """
    try:
        manifest = read_json(folder / MANIFEST)
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
    if not (folder / MANIFEST).exists():
        return
    names = shard_names(folder)
    (folder / MANIFEST).unlink()
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

    Tasks of several splits may be mixed; the order within a split is kept. Manifest and shards of an earlier run are
    removed first, so an interrupted run is never taken for a finished one.

    Args:
        tasks: anything that gives its row by `flat()`.
        settings: what produced the tasks; stored in the manifest.
        shard_bytes: a new shard begins when this many bytes are reached.

    Raises:
        ValueError: one image is in two splits, or there was no task at all.
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
        shards.append({"split": split, **open_shards.pop(split).close()})

    try:
        for task in tasks:
            row = task.flat()
            split = row.split
            for digest in row.image_blake3 or ():
                if home.setdefault(digest, split) != split:
                    raise ValueError(
                        f"image {digest[:12]} is in the splits {home[digest]} and {split}: rows would leak from"
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
    manifest = manifest_of({"settings": dict(settings or {})}, shards, labels)
    write_json(folder / MANIFEST, manifest)
    return manifest
