"""Reading the image files that rows name.

Rows are third-party input. A name may only open a regular file below one of the user's roots, after symbolic links are
resolved: no device, no pipe, no address, no private file elsewhere. A user who trusts the rows gives `/` as a root.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

LARGEST_FILE = 256 * 2**20
"""Bytes of one image file; a larger one is refused before it is read."""

LONGEST_NAME = 4_096
"""Characters of a name."""


_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_NOT_READABLE = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO, errno.ENODEV}


class BadImage(ValueError):
    """An image that cannot be used. `reason` is a short code for counts, the message says what to do."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def relative_name(name: str) -> str:
    """An image's name as a path relative to a root: no `file:`, no leading slash, `/` between folders.

    Raises:
        BadImage: `image-outside` for an address, or for a name with `..`.
    """
    plain = name.removeprefix("file://") if name.startswith("file:///") else name
    if "\0" in plain or len(plain) > LONGEST_NAME:
        raise BadImage("image-missing", f"{name[:80]!r} is not the name of a file")
    if "://" in plain or plain.startswith("data:"):
        raise BadImage("image-outside", f"{name[:200]!r} is an address: fetch the image and name its file")
    parts = PurePosixPath(plain.replace("\\", "/")).parts
    if ".." in parts:
        raise BadImage("image-outside", f"{name[:200]!r} leads out of the image root")
    return "/".join(part for part in parts if part != "/")


def allowed_path(name: str, roots: Sequence[str | os.PathLike[str]]) -> Path:
    """The regular file that a row refers to by `name`.

    Names are relative to each root in turn. An absolute name, also as `file:///...`, opens its file when that is below
    a root; otherwise it is relative to the roots.

    Args:
        name: as in the row.
        roots: folders; usually the folder of the data file, or the user's `--image-root`.

    Raises:
        BadImage: `image-outside` for an address, `..`, or a link that leads out of the roots; `image-missing` when
            there is no such file; `image-unreadable` for what is not a regular file or may not be read.
        OSError: the disk or the network fails.
    """
    inner = relative_name(name)
    tops = [Path(root).resolve() for root in roots]
    candidates = [top / inner for top in tops]
    if name.startswith(("/", "file:///")):
        candidates.insert(0, Path("/", inner))
    outside = False
    for path in candidates:
        try:
            found = path.resolve()
            mode = found.stat().st_mode
        except PermissionError as error:
            raise BadImage("image-unreadable", f"{name[:200]!r} may not be read ({error.strerror})") from error
        except (RuntimeError, ValueError):  # a loop of links, or an invalid name
            continue
        except OSError as error:
            if error.errno not in _NO_SUCH_FILE:
                raise
            continue
        if not any(found.is_relative_to(top) for top in tops):
            outside = True
        elif stat.S_ISREG(mode):
            return found
        elif not stat.S_ISDIR(mode):
            raise BadImage("image-unreadable", f"{name[:200]!r} is not a regular file")
    where = ", ".join(str(root) for root in roots)
    if outside:
        raise BadImage("image-outside", f"{name[:200]!r} lies outside {where}")
    raise BadImage("image-missing", f"no file {name[:200]!r} in {where}")


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most `LARGEST_FILE` bytes. Never waits for a pipe or a device.

    Raises:
        BadImage: `image-missing`, `image-unreadable` or `image-too-large`.
        OSError: the disk or the network fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadImage("image-unreadable", f"{path} is not a regular file")
            with open(descriptor, "rb", closefd=False) as stream:
                data = stream.read(LARGEST_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            raise BadImage("image-missing", f"no file {path}") from error
        if error.errno in _NOT_READABLE:
            raise BadImage("image-unreadable", f"{path} cannot be read ({error.strerror})") from error
        raise
    if len(data) > LARGEST_FILE:
        raise too_many_bytes(path.name)
    return data


def too_many_bytes(name: str) -> BadImage:
    """The error for a file of more than `LARGEST_FILE` bytes."""
    return BadImage("image-too-large", f"{name[:200]} has more than {LARGEST_FILE:,} bytes")
