"""The ``critic-r1`` command. Each group of commands lives beside the code it runs; this file puts them together."""

import importlib
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    name="critic-r1",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="LLaVA-Critic-R1 on stock verl: prepare critic data, train, judge, and let the critic choose.",
)

console = Console()

for _module in (
    "commands_demo",
    "commands_data",
    "commands_train",
    "commands_cluster",
    "commands_judge",
    "commands_best_of_n",
    "commands_label",
    "commands_eval",
    "commands_report",
):
    importlib.import_module(f"recipe.critic_r1.{_module}").register(app)


@app.command()
def doctor(
    worker: Annotated[bool, typer.Option(help="Also start Ray and look inside a worker.")] = True,
) -> None:
    """Say what is installed, whether the plug-in loads here and in a Ray worker, and what to do when not."""
    from recipe.critic_r1.doctor import examine

    findings = examine(in_worker=worker)
    for finding in findings:
        colour = {"pass": "green", "warn": "yellow", "fail": "red"}[finding.status]
        console.print(f"[{colour}]{finding.status:4}[/]  {finding.check}: {finding.detail}", highlight=False)
        if finding.remedy:
            console.print(f"      {finding.remedy}", highlight=False)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
