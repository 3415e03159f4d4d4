"""Finding and opening input files, local or remote.

Remote files are read through fsspec, which supports `s3://`, `gs://`, `https://`, `hf://` and many more; local files
are opened directly.
"""

import glob
import io
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Text files with records; they may be compressed with gzip (`.gz`) or zstd (`.zst`)."""

SUFFIXES = (".parquet", ".arrow", *TEXTS, *(text + packed for text in TEXTS for packed in (".gz", ".zst")))
"""Suffixes of the data files in a folder."""

OWN_FILES = ("manifest.json", "rejected.jsonl", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files in a folder that are not data: metadata of ours and of `datasets.save_to_disk`."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class InputError(ValueError):
    """An input cannot be read; the message names it and says what to do."""


def expand_inputs(
    inputs: Iterable[str | os.PathLike[str]], *, output: str | os.PathLike[str] | None = None
) -> list[str]:
    """Files named by paths, globs, folders, remote addresses or hub ids; sorted within each input, without repeats.

    Args:
        output: a folder that is skipped when it is inside an input folder.

    Raises:
        InputError: an input does not exist, or has no file of a known kind.
    """
    found: dict[str, None] = {}
    for given in (os.fspath(i) for i in inputs):
        for path in _remote(given) if "://" in given else _local(given, output):
            found[path] = None
    if not found:
        raise InputError("no input was given")
    return list(found)


def _local(given: str, output: str | os.PathLike[str] | None) -> list[str]:
    path = Path(given).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        own = None if output is None else Path(output).absolute()
        files = [
            str(p)
            for p in sorted(path.rglob("*"))
            if p.is_file()
            and wanted(p.name)
            and not any(part.startswith(".") for part in p.relative_to(path).parts)
            and (own is None or own not in p.absolute().parents)
        ]
        if not files:
            raise InputError(f"{given}: no {', '.join(SUFFIXES[:7])} file in this folder")
        return files
    if matches := sorted(glob.glob(str(path), recursive=True)):
        return [m for m in matches if os.path.isfile(m)]
    if _HUB_ID.fullmatch(given) and not given.startswith("."):
        return _remote(f"hf://datasets/{given}")
    raise InputError(f"{given}: no such file or folder, and no file matches it as a pattern")


def _remote(given: str) -> list[str]:
    try:
        system, path = _file_system(given)
        if system.isfile(path):
            paths = [path]
        elif system.isdir(path):
            paths = [p for p in system.find(path) if wanted(p.rsplit("/", 1)[-1])]
        else:
            paths = system.glob(path)
    except Exception as error:  # each file system raises its own
        raise InputError(f"{given}: cannot be listed ({error}); is there a network, is the address right?") from error
    if not paths:
        raise InputError(f"{given}: nothing there that can be read")
    # In a chained address (`zip://*.jsonl::s3://...`) the rest is the archive's address.
    _, chained, rest = given.partition("::")
    return [system.unstrip_protocol(p) + chained + rest for p in sorted(paths)]


def wanted(name: str) -> bool:
    """Whether a file found in a folder is a data file."""
    cached = name.startswith("cache-") and name.endswith(".arrow")  # written by `datasets`
    return name.endswith(SUFFIXES) and name not in OWN_FILES and not name.startswith(".") and not cached


def names_of(files: Sequence[str]) -> list[str]:
    """Names of the files relative to the folder that they have in common."""
    paths = [inside(file) for file in files]
    if len(paths) == 1:
        return [paths[0].rpartition("/")[2]]
    folders = [path.split("/")[:-1] for path in paths]
    shared = 0
    while all(len(f) > shared and f[shared] == folders[0][shared] for f in folders):
        shared += 1
    return ["/".join(path.split("/")[shared:]) for path in paths]


def inside(path: str) -> str:
    """The part of an address that names the data file, without that of its archive."""
    return path.partition("::")[0]


def open_input(path: str) -> Any:
    """A readable, seekable binary stream of a local or remote file; `.gz` and `.zst` are decompressed."""
    packed = inside(path).endswith(".gz")
    if inside(path).endswith(".zst"):
        return io.BufferedReader(_Zstd(path), 2**20)
    if "://" not in path and not packed:
        return open(path, "rb")
    system, inner = _file_system(path)
    return system.open(inner, "rb", compression="gzip" if packed else None)


class _Zstd(io.RawIOBase):
    """A zstd file as a stream that seeks backwards by starting again, like Python's gzip streams."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        packed: Any
        if "://" in self._path:
            system, inner = _file_system(self._path)
            packed = system.open(inner, "rb")
        else:
            packed = open(self._path, "rb")  # noqa: SIM115
        self._file = packed
        self._stream = pa.CompressedInputStream(pa.PythonFile(packed), "zstd")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a compressed file is not known")
        if offset < self._at:
            self._file.close()
            self._restart()
        while self._at < offset and (data := self._stream.read(min(2**20, offset - self._at))):
            self._at += len(data)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@lru_cache(maxsize=64)
def _file_system(path: str) -> tuple[Any, str]:
    """The file system of an address and the path in it; cached, since an unreferenced archive is closed."""
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(path)
    return found


def stamp(path: str) -> list[Any]:
    """Name and size of an input, by which a resumed run recognises it."""
    if "://" not in path:
        return [os.path.basename(path), os.path.getsize(path)]
    system, inner = _file_system(path)
    return [inner.rsplit("/", 1)[-1], system.size(inner)]
