"""``critic-r1 train``, ``preflight``, ``export`` and ``score``: a training run and what comes out of it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console()

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    config_name: Annotated[str, typer.Option("--config-name", help="A yaml of recipe/critic_r1/config.")],
) -> None:
    """Train: the same as `python -m recipe.critic_r1.train`; everything else is passed to Hydra as key=value."""
    from recipe.critic_r1 import train as entry

    sys.argv = ["critic-r1 train", "--config-name", config_name, *context.args]
    entry.main()


def preflight(
    context: typer.Context,
    config_name: Annotated[str, typer.Option("--config-name", help="A yaml of recipe/critic_r1/config.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a run before it is started: configuration, data, model, sizes, memory."""
    from hydra import compose, initialize_config_module

    from recipe.critic_r1 import preflight as checks
    from recipe.critic_r1.train import prepare_config

    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        config = compose(config_name, overrides=list(context.args))
    prepare_config(config)
    found = checks.findings(config)
    if as_json:
        print(json.dumps([vars(finding) for finding in found], indent=1))
    else:
        for finding in found:
            console.print(str(finding), highlight=False)
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(2)


def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="Where the model goes.")],
    step: Annotated[int | None, typer.Option(help="Training step; `--which` decides without it.")] = None,
    which: Annotated[str, typer.Option(help="last, or best by held-out accuracy.")] = "last",
) -> None:
    """Write a checkpoint as a Hugging Face folder with a model card."""
    from recipe.critic_r1.training import export as exporter

    try:
        console.print(f"{exporter.export(run_dir, out, step, which=which)}", highlight=False)
    except exporter.ExportError as error:
        console.print(f"[red]export:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error


def score(
    file: Annotated[Path, typer.Argument(help="samples.jsonl of a run, or a dump of verl's rollout_data_dir.")],
    reward: Annotated[str, typer.Option(help="FILE:FUNCTION or pkg://MODULE:FUNCTION.")] = (
        "pkg://reward_fns.mixed:compute_score"
    ),
    against: Annotated[
        str, typer.Option(help="Another reward, or `recorded` for the scores in the file.")
    ] = "recorded",
    option: Annotated[list[str] | None, typer.Option(help="key=value for the reward; value is JSON or text.")] = None,
    against_option: Annotated[list[str] | None, typer.Option(help="The same for the other reward.")] = None,
    data_source: Annotated[str, typer.Option(help="For dumps that do not name it.")] = "critic/unknown",
    show: Annotated[int, typer.Option(min=0, help="Most differing rows to print.")] = 20,
) -> None:
    """Score a rollout dump again, and show where two rewards differ and why."""
    from recipe.critic_r1.training.rescore import print_report, score_file

    try:
        found = score_file(
            file,
            reward,
            against=against,
            options=_options(option),
            against_options=_options(against_option),
            data_source=data_source,
            show=show,
        )
    except (OSError, ValueError) as error:
        console.print(f"[red]score:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    print_report(found, console)


def _options(given: list[str] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in given or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not key=value")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def register(app: typer.Typer) -> None:
    """Add the training commands to ``app``."""
    app.command(context_settings=_PASS_ON)(train)
    app.command(context_settings=_PASS_ON)(preflight)
    app.command()(export)
    app.command()(score)
