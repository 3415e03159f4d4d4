"""Strangers' text on a terminal is shown, never obeyed."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from data_prep.terminal import markup_safe, one_line, printable

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "8-bit sequence": "\x9b2J",
    "overwritten line": "good\rbad ",
    "backspace": "a\x08b",
    "bell": "\x07",
    "delete": "\x7f",
    "turned round": "\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "half a character": "\ud83d",
    "nul": "a\0b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_command_reaches_the_terminal(text: str) -> None:
    for shown in (printable(text), one_line(text), markup_safe(text)):
        stream = io.StringIO()
        Console(file=stream, force_terminal=False).print(Text(shown))
        assert not set(stream.getvalue()) & set("\x1b\x9b\r\x08\x07\x7f\0\u202e\u2066\ud83d")
        assert "\ufffd" in shown


@pytest.mark.parametrize("text", ["[/x]", "[bold]a[/bold]", "[link=https://example.org]a[/link]", "a\\[b]", "[1, 2]"])
def test_brackets_are_no_markup(text: str) -> None:
    assert Text.from_markup(markup_safe(text)).plain == text


def test_ordinary_text_stays() -> None:
    text = "Straße 你好 👩\u200d🔬 é\n\ttab"
    assert printable(text) == text
    assert one_line(text) == "Straße 你好 👩\u200d🔬 é tab"
