"""`python -m recipe.critic_r1.report RUN_DIR` writes RUN_DIR/report.html and prints its path."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from recipe.critic_r1.report.page import build_report
from recipe.critic_r1.report.run_files import ReportError


def main(run_dir: Annotated[Path, typer.Argument(help="Folder of a run: the one that holds run.json.")]) -> None:
    """Write RUN_DIR/report.html: one self-contained page about the run."""
    try:
        typer.echo(build_report(run_dir))
    except ReportError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
