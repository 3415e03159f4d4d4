"""Progress of the demo's stages: one line a stage, with its task, its progress and its time.

A stage runs in a process of its own whose output goes to a log file. It reports progress in lines that start with a
mark; everything else (framework noise) stays in the log. On a terminal the line is updated in place; elsewhere a line
is printed at every tenth.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

MARK = "::progress::"


def progress_line(done: int, total: int, text: str = "") -> str:
    """The line that a stage prints to report progress."""
    return f"{MARK} {done} {total} {text}"


def parse_progress(line: str) -> tuple[int, int, str] | None:
    """``(done, total, text)`` of a progress line, None of any other line."""
    if not line.startswith(MARK):
        return None
    parts = line[len(MARK) :].strip().split(" ", 2)
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    return int(parts[0]), int(parts[1]), parts[2].strip() if len(parts) > 2 else ""


class StageLine:
    """One stage on the console."""

    def __init__(self, title: str, progress: Progress | None, console: Console) -> None:
        self._title, self._progress, self._console = title, progress, console
        self._task = progress.add_task(title, total=None, note="") if progress else None
        self._started = time.monotonic()
        self._tenth = -1
        self._note = ""

    def update(self, done: int | None = None, total: int | None = None, note: str | None = None) -> None:
        """Show how far the stage is; None leaves a value as it was."""
        if note is not None:
            changed, self._note = note != self._note, note
        else:
            changed = False
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=self._note)
        elif done is not None and total:
            tenth = done * 10 // total
            if tenth > self._tenth:
                self._tenth = tenth
                self._console.print(
                    f"  {self._title}: {done}/{total}  {self._note}  ({self.seconds:.0f} s)",
                    soft_wrap=True,
                    highlight=False,
                )
        elif changed:
            self._console.print(
                f"  {self._title}: {self._note}  ({self.seconds:.0f} s)", soft_wrap=True, highlight=False
            )

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._started


@contextmanager
def stage_line(title: str, console: Console) -> Iterator[StageLine]:
    """A `StageLine` that lives as long as the stage does."""
    if not (console.is_terminal and sys.stdout.isatty()):
        yield StageLine(title, None, console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield StageLine(title, progress, console)
