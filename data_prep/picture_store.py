"""Picture bytes for sets that ship file names only: from a folder, a zip archive, or a remote place."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.images import BadPicture

LARGEST_FILE = 256 * 2**20
"""Bytes of one picture file; a larger one is refused before it is read (a zip entry may claim any size)."""


class PictureStore:
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
        """The bytes of the picture called `name` in a data file that lies in the folder `base`.

        Raises:
            BadPicture: `picture-missing`, `picture-too-large`, or `picture-truncated` for a damaged entry of a zip.
        """
        parts = PurePosixPath(name.removeprefix("file://").replace("\\", "/")).parts
        if ".." in parts or "\0" in name or len(name) > 4096:
            raise BadPicture("picture-missing", f"the file name {name[:80]!r} leads out of the image root")
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
        raise BadPicture("picture-missing", f"no file {inner[:200]} in {where}: {remedy}")

    def _read(self, root: str, inner: str) -> bytes | None:
        if root.endswith(".zip"):
            return self._unpack(root, inner)
        try:
            if "://" in root:
                import fsspec

                with fsspec.open(f"{root.rstrip('/')}/{inner}", "rb") as stream:
                    return bytes(stream.read(LARGEST_FILE))
            path = Path(root, inner)
            if path.stat().st_size > LARGEST_FILE:
                raise _too_large(inner)
            return path.read_bytes()
        except BadPicture:
            raise
        except (OSError, KeyError, RuntimeError, NotImplementedError, ValueError):
            return None

    def _unpack(self, root: str, inner: str) -> bytes | None:
        archive = self._archive(root)
        if archive is None or inner not in archive.NameToInfo:
            return None
        if archive.getinfo(inner).file_size > LARGEST_FILE:
            raise _too_large(inner)
        try:
            return archive.read(inner)
        except Exception as error:  # every method of compression has its own
            raise BadPicture("picture-truncated", f"{inner[:200]} is damaged in {root} ({error})") from error

    def _archive(self, root: str) -> zipfile.ZipFile | None:
        if root not in self._archives:
            try:
                self._archives[root] = zipfile.ZipFile(root)
            except (OSError, zipfile.BadZipFile):
                self._archives[root] = None
        return self._archives[root]


def _too_large(inner: str) -> BadPicture:
    return BadPicture("picture-too-large", f"{inner[:200]} has more than {LARGEST_FILE} bytes")
