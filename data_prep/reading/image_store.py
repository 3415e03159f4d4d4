"""Image bytes for sets that ship file names only: from a folder, a zip archive, or a remote place."""

import errno
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.reading.image_files import LARGEST_FILE, BadImage, too_many_bytes
from data_prep.reading.inputs import InputError

NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
NO_SUCH_NAME = (FileNotFoundError, KeyError, UnicodeError)
"""What an operating system, and what a library says of a name that no file has."""

PAUSES = (1.0, 2.0)
"""Seconds before a remote root that failed is asked again; after the last attempt the run ends."""


class ImageStore:
    """Looks a file name up below the image roots, in their order.

    A name may not lead out of its root: data files come from strangers.

    Args:
        roots: folders, zip archives, or addresses that fsspec knows. Without any, names are relative to the data file.
    """

    def __init__(self, roots: Sequence[str] = ()) -> None:
        self._roots = [os.fspath(r) for r in roots]
        self._archives: dict[str, zipfile.ZipFile | None] = {}
        """By root; None for one that cannot be opened."""

    def load(self, name: str, base: str) -> bytes:
        """The bytes of the image called `name` in a data file that lies in the folder `base`.

        Raises:
            BadImage: `image-missing`, `image-too-large`, `image-unreadable` for one that may not be read, or
                `image-truncated` for a damaged entry of a zip.
            InputError: the root itself fails (a network or a disk that is down). Not a matter of one row: the run would
                go on and lose them all.
        """
        parts = PurePosixPath(name.removeprefix("file://").replace("\\", "/")).parts
        if ".." in parts or "\0" in name or len(name) > 4096:
            raise BadImage("image-missing", f"the file name {name[:80]!r} leads out of the image root")
        inner = "/".join(p for p in parts if p not in ("/", "."))
        for root in self._roots or [base]:
            data = self._read(root, inner)
            if data is not None:
                return data
        where = ", ".join(self._roots) or base
        remedy = "give its folder or zip as --image-root"
        if name.removeprefix("file://").startswith("/"):
            remedy += " (--image-root / for names that begin at the root of this machine)"
        damaged = [root for root in self._roots if self._archives.get(root, ...) is None]
        if damaged:
            remedy = f"{', '.join(damaged)} cannot be opened as a zip: fetch it again"
        raise BadImage("image-missing", f"no file {inner[:200]} in {where}: {remedy}")

    def _read(self, root: str, inner: str) -> bytes | None:
        if root.endswith(".zip"):
            return self._unpack(root, inner)
        pauses = list(PAUSES) if "://" in root else []
        while True:
            try:
                return _remote(root, inner) if "://" in root else _local(Path(root, inner))
            except BadImage:
                raise
            except PermissionError as error:
                raise BadImage("image-unreadable", f"{inner[:200]} in {root} may not be read ({error})") from error
            except Exception as error:  # each of fsspec's file systems has its own
                if _no_such_file(error):
                    return None
                if not pauses:
                    raise InputError(
                        f"{root}: cannot be read ({type(error).__name__}: {error}), so images may be there and not be"
                        " found; mend it and give the same command again, which goes on from here"
                    ) from error
                time.sleep(pauses.pop(0))

    def _unpack(self, root: str, inner: str) -> bytes | None:
        archive = self._archive(root)
        if archive is None or inner not in archive.NameToInfo:
            return None
        if archive.getinfo(inner).file_size > LARGEST_FILE:
            raise too_many_bytes(inner)
        try:
            return archive.read(inner)
        except Exception as error:  # every method of compression has its own
            raise BadImage("image-truncated", f"{inner[:200]} is damaged in {root} ({error})") from error

    def _archive(self, root: str) -> zipfile.ZipFile | None:
        if root not in self._archives:
            try:
                self._archives[root] = zipfile.ZipFile(root)
            except (OSError, zipfile.BadZipFile):
                self._archives[root] = None
        return self._archives[root]


def _no_such_file(error: Exception) -> bool:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, FileNotFoundError):
        # fsspec's HTTP says so of a server that does not answer, too; a refusal (4xx) is about this file.
        return 400 <= getattr(cause, "status", 0) < 500
    return isinstance(error, NO_SUCH_NAME) or getattr(error, "errno", None) in NO_SUCH_FILE


def _remote(root: str, inner: str) -> bytes:
    import fsspec

    with fsspec.open(f"{root.rstrip('/')}/{inner}", "rb") as stream:
        data = bytes(stream.read(LARGEST_FILE + 1))
    if len(data) > LARGEST_FILE:
        raise too_many_bytes(inner)
    return data


def _local(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_FILE:
        raise too_many_bytes(path.name)
    return path.read_bytes()
