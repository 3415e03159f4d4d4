"""What the commands show. Text from models, servers and data is neutralised before it reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from data_prep.files import folder_lock
from data_prep.terminal import printable

console = Console()


def cell(text: object) -> Text:
    """A cell of a table: printable text, in which markup has no meaning."""
    return Text(printable(text), overflow="fold")


def say(text: object) -> None:
    """A line on stdout."""
    typer.echo(printable(text))


def warn(text: object) -> None:
    """A line on stderr."""
    typer.echo(printable(text), err=True)


def ending(error: object) -> typer.Exit:
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
