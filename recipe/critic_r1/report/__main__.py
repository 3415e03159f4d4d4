"""`python -m recipe.critic_r1.report RUN...` does what `critic-r1 report` does, without loading the other commands."""

import typer

from recipe.critic_r1.cli.report import report_command

if __name__ == "__main__":
    typer.run(report_command)
