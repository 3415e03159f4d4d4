"""Files that are complete or absent, folders that one command holds at a time, and lines of JSON.

Everything that writes a result goes through `replacing`, so that an interrupted command leaves the earlier result or
none. Everything that writes into a folder of its own holds `folder_lock` first, so that a second command is refused
before it touches anything.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of a line of JSON that `json_lines` reads."""


class FolderInUseError(RuntimeError):
    """Another command is writing into the folder."""


class Line(NamedTuple):
    """One line of a file of JSON lines."""

    number: int
    """From 1."""

    value: Any
    """None where `error` is set."""

    error: str | None = None
    """Why the line cannot be read; None when it was."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends, and is removed when the block fails.

    A symbolic link at `path` is replaced, never written through.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encodable(text: str) -> str:
    r"""The text with lone surrogates, which UTF-8 cannot hold, written as ``\udXXX``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole; what UTF-8 cannot hold is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(encodable(text), encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1, default: Callable[[Any], Any] | None = None) -> None:
    """Write a JSON file as a whole, in the order of the value's keys."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, default=default) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file that anybody may have written.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
        OSError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from error


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """The value as one line of JSON that every UTF-8 file can hold."""
    return encodable(json.dumps(value, ensure_ascii=False, default=default)) + "\n"


def write_json_lines(path: Path, values: Iterable[Any]) -> int:
    """Write a file of JSON lines as a whole.

    Returns:
        The number of lines.
    """
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for count, value in enumerate(values, 1):  # noqa: B007
            stream.write(json_line(value))
    return count


def refuse_foreign_file(path: Path, mark: str, what: str) -> None:
    """Refuse to write where anything but an earlier result is.

    Args:
        mark: what each result has in its first 4096 bytes.
        what: the kind of result, for the message.

    Raises:
        FileExistsError: there is a folder, or a file without the mark.
    """
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: give the name of a file")
    if path.exists():
        head = b""
        if path.is_file():
            with path.open("rb") as stream:
                head = stream.read(4096)
        if mark.encode() not in head:
            raise FileExistsError(f"{path} exists and is not {what}: choose another file, or remove it")


def append_json_line(path: Path, value: Any) -> None:
    """Add a line to a file of JSON lines, in one write, so that lines of two commands never mix.

    Raises:
        OSError: it cannot be written, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, json_line(value).encode())
    finally:
        os.close(descriptor)


def json_lines(path: Path) -> Iterator[Line]:
    """The lines of a file of JSON lines; blank ones are skipped, and one that cannot be read carries its error.

    A last line that a killed process left without its end is not told from any other damaged line: callers decide by
    the error what it costs.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(raw) > LONGEST_LINE:
                yield Line(number, None, f"longer than {LONGEST_LINE:,} bytes")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(LONGEST_LINE)
                continue
            if not raw.strip():
                continue
            try:
                yield Line(number, json.loads(raw))
            except (ValueError, RecursionError) as error:
                yield Line(number, None, str(error) or type(error).__name__)


@contextlib.contextmanager
def folder_lock(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder for one command; the lock ends with the process, however it ends.

    Raises:
        FolderInUseError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another command"
            raise FolderInUseError(
                f"{folder} is being written by {holder}. Wait until it ends, or choose another folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{command} (process {os.getpid()})\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
