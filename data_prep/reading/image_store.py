"""Image bytes for data sets with file names only, from a folder, a zip archive or a remote location."""

import errno
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from data_prep.reading.image_files import (
    LARGEST_FILE,
    BadImage,
    allowed_path,
    read_file,
    relative_name,
    too_many_bytes,
)
from data_prep.reading.inputs import InputError

NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
NO_SUCH_NAME = (FileNotFoundError, KeyError, UnicodeError)
"""Errors of operating systems and libraries for a name that no file has."""

PAUSES = (1.0, 2.0)
"""Seconds before a failed remote root is tried again; after the last attempt the run ends."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Suffixes that a name may lack."""


class ImageStore:
    """Looks up file names below the image roots, in their order.

    A name without an exact match may differ in case or lack the suffix, provided that only one file matches.

    Args:
        roots: folders, zip archives, or addresses that fsspec supports. Without any, names are relative to the data
        file.
    """

    def __init__(self, roots: Sequence[str] = ()) -> None:
        self._roots = [os.fspath(r) for r in roots]
        self._archives: dict[str, zipfile.ZipFile | None] = {}
        """By root; None if it cannot be opened."""

    def load(self, name: str, base: str) -> bytes:
        """The bytes of the image `name` of a data file in the folder `base`.

        Raises:
            BadImage: `image-outside` for a name that leads out of its root; `image-missing`, `image-too-large`,
                `image-unreadable` for lack of permission, or `image-truncated` for a damaged entry of a zip.
            InputError: the root itself fails (a network or a disk that is down), which would affect all rows.
        """
        inner = relative_name(name)
        roots = self._roots or [base]
        folders = [root for root in roots if "://" not in root and not root.endswith(".zip")]
        outside: BadImage | None = None
        for root in roots:
            try:
                if root.endswith(".zip") and "://" not in root:
                    data = self._unpack(root, inner)
                elif "://" in root:
                    data = _remote(root, inner)
                else:
                    data = _local(name, inner, root, folders)
            except BadImage as problem:
                if problem.reason != "image-outside":
                    raise
                outside = problem
                continue
            if data is not None:
                return data
        if outside is not None:
            raise outside
        where = ", ".join(self._roots) or base
        remedy = "give its folder or zip as --image-root"
        if name.startswith(("/", "file:///")):
            remedy += " (--image-root / for absolute names)"
        damaged = [root for root in self._roots if self._archives.get(root, ...) is None]
        if damaged:
            remedy = f"{', '.join(damaged)} cannot be opened as a zip: fetch it again"
        raise BadImage("image-missing", f"no file {inner[:200]} in {where}: {remedy}")

    def _unpack(self, root: str, inner: str) -> bytes | None:
        archive = self._archive(root)
        if archive is None:
            return None
        if inner not in archive.NameToInfo:
            inner = _alike(inner, _zip_names(archive)) or ""
            if not inner:
                return None
        if archive.getinfo(inner).file_size > LARGEST_FILE:
            raise too_many_bytes(inner)
        try:
            return archive.read(inner)
        except Exception as error:  # each compression method raises its own
            raise BadImage("image-truncated", f"{inner[:200]} is damaged in {root} ({error})") from error

    def _archive(self, root: str) -> zipfile.ZipFile | None:
        if root not in self._archives:
            try:
                self._archives[root] = zipfile.ZipFile(root)
            except (OSError, zipfile.BadZipFile):
                self._archives[root] = None
        return self._archives[root]


def _local(name: str, inner: str, root: str, folders: Sequence[str]) -> bytes | None:
    """The file below `root`, or None; a link may lead into any of the folders.

    Raises:
        InputError: the disk fails.
    """
    others = [folder for folder in folders if folder != root]
    try:
        for attempt in (name, _alike_in(root, inner)):
            if attempt is None:
                break
            try:
                return read_file(allowed_path(attempt, [root, *others]))
            except BadImage as problem:
                if problem.reason != "image-missing":
                    raise
    except OSError as error:
        raise _failed(root, error) from error
    return None


def _alike_in(root: str, inner: str) -> str | None:
    """The one file below a folder whose name differs only in case or suffix."""
    *folders, last = inner.split("/")
    found = root
    for part in folders:
        name = part if os.path.isdir(os.path.join(found, part)) else _folder_names(found).get(part.casefold())
        if name is None:
            return None
        found = os.path.join(found, name)
    name = _alike(last, _folder_names(found))
    return None if name is None else os.path.relpath(os.path.join(found, name), root)


def _alike(name: str, names: dict[str, str | None]) -> str | None:
    return names.get(name.casefold())


@lru_cache(maxsize=64)
def _folder_names(folder: str) -> dict[str, str | None]:
    try:
        return _by_likeness(os.listdir(folder))
    except OSError:
        return {}


@lru_cache(maxsize=8)
def _zip_names(archive: zipfile.ZipFile) -> dict[str, str | None]:
    return _by_likeness(archive.NameToInfo)


def _by_likeness(names: Iterable[str]) -> dict[str, str | None]:
    """Lower-case names, with and without suffix -> the name; None if ambiguous."""
    found: dict[str, str | None] = {}
    for name in names:
        lower = name.casefold()
        stem, suffix = os.path.splitext(lower)
        for key in (lower, stem) if suffix in SUFFIXES else (lower,):
            found[key] = None if key in found else name
    return found


def _remote(root: str, inner: str) -> bytes | None:
    """The file below a remote root, or None.

    Raises:
        InputError: the remote location fails.
    """
    pauses = list(PAUSES)
    while True:
        try:
            system, top = _file_system(root)
            # Not as an address, in which `::` in a name would start another address.
            with system.open(f"{top.rstrip('/')}/{inner}", "rb") as stream:
                data = bytes(stream.read(LARGEST_FILE + 1))
        except PermissionError as error:
            raise BadImage("image-unreadable", f"{inner[:200]} in {root} may not be read ({error})") from error
        except Exception as error:  # each of fsspec's file systems raises its own
            if _no_such_file(error):
                return None
            if not pauses:
                raise _failed(root, error) from error
            time.sleep(pauses.pop(0))
            continue
        if len(data) > LARGEST_FILE:
            raise too_many_bytes(inner)
        return data


@lru_cache(maxsize=16)
def _file_system(root: str) -> tuple[Any, str]:
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(root)
    return found


def _failed(root: str, error: Exception) -> InputError:
    return InputError(
        f"{root}: cannot be read ({type(error).__name__}: {error}), so images may exist and not be found;"
        " repair it and run the same command again, which resumes from here"
    )


def _no_such_file(error: Exception) -> bool:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, FileNotFoundError):
        # fsspec also raises it for a server that does not answer; only 4xx is about this file.
        return 400 <= getattr(cause, "status", 0) < 500
    return isinstance(error, NO_SUCH_NAME) or getattr(error, "errno", None) in NO_SUCH_FILE
