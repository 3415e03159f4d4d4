"""``critic-r1 report``: runs of any command as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from recipe.critic_r1.cli.output import ending, say

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Output folders of `demo`, `train`, `judge`, `best-of-n` or `eval-policy`; NAME=FOLDER sets the name on "
        "the page.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="File to write (default: report.html in the run's folder; for several runs, in the working directory)."
    ),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        help="Parquet file, or folder of them, with the judged images. Needed where they are outside the run's folder. "
        "Repeatable."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("report")(report_command)


def report_command(runs: Runs, out: Out = None, data: Data = None) -> None:
    """Write one self-contained HTML page: tables, training curves, best of N, and the judgements with their images.

    Several runs are shown side by side; each is compared with the first on the same items. The page asks the network
    for nothing, so it can be mailed or archived as a single file.
    """
    from recipe.critic_r1.report import build_page

    try:
        page = build_page(runs, out, data=data or ())
    except (OSError, ValueError) as error:
        raise ending(f"report: {error}") from error
    say(page)
