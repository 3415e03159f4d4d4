"""What the commands show. Text from models, servers and data is neutralised before it reaches the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from data_prep.files import folder_lock

console = Console()

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """The text with control and direction characters written out, so that it cannot steer a terminal.

    >>> plain("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def cell(text: object) -> Text:
    """A cell of a table: plain text, in which markup has no meaning."""
    return Text(plain(text), overflow="fold")


def say(text: object) -> None:
    """A line on stdout."""
    typer.echo(plain(text))


def warn(text: object) -> None:
    """A line on stderr."""
    typer.echo(plain(text), err=True)


def ending(error: BaseException) -> typer.Exit:
    """Say what was wrong in one line; exit status 2."""
    warn(f"critic-r1: {error}")
    return typer.Exit(2)


@contextmanager
def claimed(out: Path, command: str, results: Iterable[str], *, record: str = "answers.jsonl") -> Iterator[None]:
    """Hold an output folder, unless it holds results that no earlier run wrote.

    Args:
        results: files and folders that the command replaces.
        record: what every run leaves in the folder before its results.

    Raises:
        FolderInUseError: another process holds the folder.
        FileExistsError: a result is there without the record.
    """
    with folder_lock(out, f"critic-r1 {command}"):
        for path in (out / name for name in results if not (out / record).exists()):
            if path.exists() and not path.is_symlink() and (path.is_file() or any(path.iterdir())):
                raise FileExistsError(
                    f"{path} is in the way: no run of `critic-r1 {command}` wrote it, as {record} is missing beside it."
                    " Move it away, or choose another --out"
                )
        yield
