"""``critic-r1 report``: runs of any command as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Folders that `demo`, `train`, `judge`, `best-of-n` or `eval-policy` wrote, or NAME=FOLDER to name one.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="The page. Default: report.html in the folder of the run; of several runs, in this folder."),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(help="Parquet files or folders that hold the images of judge runs. Repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("report")(report_command)


def report_command(runs: Runs, out: Out = None, data: Data = None) -> None:
    """Write one self-contained HTML page: tables, curves, best of N, and the judgements with their images.

    Several runs stand side by side, each compared with the first on the same items.
    """
    from recipe.critic_r1.report import build_page

    try:
        page = build_page(runs, out, data=data or ())
    except (OSError, ValueError) as error:
        typer.echo(f"critic-r1 report: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)
