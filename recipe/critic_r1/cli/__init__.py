"""The ``critic-r1`` command. Each group of commands lives beside the code it runs; this file puts them together."""

import importlib
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_group

from recipe.critic_r1.cli.output import cell, console

MODULES = {
    "demo": "demo",
    **dict.fromkeys(("prepare", "validate", "overlap", "show"), "data"),
    **dict.fromkeys(("train", "preflight", "rehearse", "export", "score"), "training"),
    **dict.fromkeys(("submit", "status", "logs", "stop"), "cluster"),
    **dict.fromkeys(("judge", "compare", "serve"), "judge"),
    "best-of-n": "best_of_n",
    "label": "label",
    "eval-policy": "policy_evaluation",
    "report": "report",
}
"""Where each command is registered, in the order of the help."""


class _Commands(TyperGroup):
    """Loads a command's module when the command is used: some need libraries that take long to load."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*MODULES, *(name for name in self.commands if name not in MODULES)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            # Of a name that is misspelt, Typer looks for the nearest among all.
            for module in [MODULES[cmd_name]] if cmd_name in MODULES else dict.fromkeys(MODULES.values()):
                part = typer.Typer()
                importlib.import_module(f"recipe.critic_r1.cli.{module}").register(part)
                self.commands.update(get_group(part).commands)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="critic-r1",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _program() -> None:
    """LLaVA-Critic-R1 on stock verl: prepare critic data, train, judge, and let the critic choose."""


@app.command()
def doctor(
    worker: Annotated[bool, typer.Option(help="Also start Ray and check the plug-in in a worker.")] = True,
) -> None:
    """Check the installation: versions, Python, GPU driver, flash-attn, and the plug-in here and in a Ray worker."""
    from recipe.critic_r1.preflight.doctor import examine

    findings = examine(in_worker=worker)
    for finding in findings:
        colour = {"pass": "green", "warn": "yellow", "fail": "red"}[finding.status]
        console.print(Text.assemble((f"{finding.status:4}", colour), "  ", cell(f"{finding.check}: {finding.detail}")))
        if finding.remedy:
            console.print(cell(f"      {finding.remedy}"))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
