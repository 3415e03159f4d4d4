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
        self._archives: dict[str, zipfile.ZipFile] = {}

    def load(self, name: str, base: str) -> bytes:
        """The bytes of the picture called `name` in a data file that lies in the folder `base`.

        Raises:
            BadPicture: `picture-missing` or `picture-too-large`.
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
        raise BadPicture("picture-missing", f"no file {inner[:200]} in {where}: give its folder or zip as --image-root")

    def _read(self, root: str, inner: str) -> bytes | None:
        try:
            if root.endswith(".zip"):
                archive = self._archives.get(root)
                if archive is None:
                    archive = self._archives[root] = zipfile.ZipFile(root)
                if archive.getinfo(inner).file_size > LARGEST_FILE:
                    raise BadPicture("picture-too-large", f"{inner} has more than {LARGEST_FILE} bytes")
                return archive.read(inner)
            if "://" in root:
                import fsspec

                with fsspec.open(f"{root.rstrip('/')}/{inner}", "rb") as stream:
                    return bytes(stream.read(LARGEST_FILE))
            path = Path(root, inner)
            if path.stat().st_size > LARGEST_FILE:
                raise BadPicture("picture-too-large", f"{inner} has more than {LARGEST_FILE} bytes")
            return path.read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
            if isinstance(error, BadPicture):
                raise
            return None
