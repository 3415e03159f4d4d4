"""What the commands show. Text from models, servers and data is neutralised before it reaches the terminal."""

from __future__ import annotations

import re

import typer
from rich.console import Console
from rich.text import Text

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
