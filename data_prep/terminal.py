"""Text from strangers on a terminal: shown, never obeyed."""

import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """The text without what commands a terminal (escape sequences, a carriage return) or reverses it; line breaks stay.

    For Rich, wrap it in `rich.text.Text` or use `markup_safe`, or its brackets are read as markup.

    >>> printable("\\x1b[31mred")
    '�[31mred'
    """
    return _CONTROLS.sub("\ufffd", str(text))


def one_line(text: object) -> str:
    """`printable` with line breaks and tabs as blanks: for a cell or the one line of an error."""
    return " ".join(printable(text).split())


def markup_safe(text: object) -> str:
    """`printable`, with what Rich would read as markup escaped.

    >>> markup_safe("a[/x]b")
    'a\\\\[/x]b'
    """
    from rich.markup import escape

    return escape(printable(text))
