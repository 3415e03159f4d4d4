"""``critic-r1 train``, ``preflight``, ``rehearse``, ``export`` and ``score``: a training run and its results."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recipe.critic_r1.cli.output import console, ending, say

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


ConfigName = Annotated[str, typer.Option("--config-name", help="Name of a yaml file in recipe/critic_r1/config.")]


def train(context: typer.Context, config_name: ConfigName) -> None:
    """Train a model.

    Arguments of the form key=value override the configuration, as in Hydra. The same as
    `python -m recipe.critic_r1.train`.
    """
    from recipe.critic_r1.train import train as run

    raise typer.Exit(run(config_name, context.args))


def preflight(
    context: typer.Context,
    config_name: ConfigName,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a run before it starts: configuration, data, model, software, sizes and memory.

    Takes the same key=value arguments as `train`, which runs the same checks first.
    """
    from recipe.critic_r1 import preflight as checks
    from recipe.critic_r1.train import ConfigurationError, compose_config, prepare_config

    try:
        config = compose_config(config_name, context.args)
    except ConfigurationError as error:
        raise ending(f"preflight: {error}") from error
    prepare_config(config)
    found = checks.findings(config)
    if as_json:
        print(json.dumps([vars(finding) for finding in found], indent=1))
    else:
        for finding in found:
            say(finding)
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(2)


def rehearse(
    context: typer.Context,
    config_name: Annotated[str, typer.Argument(help="Name of a yaml file in recipe/critic_r1/config, such as r1.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model and tiny sizes, on the CPU.")] = False,
    log: Annotated[Path | None, typer.Option(help="Keep the output of the training in this file.")] = None,
) -> None:
    """Try a run before it starts: three steps of its configuration, on random weights and data at its limits.

    Prints time and memory against preflight's estimate. Takes the same key=value arguments as `train`, needs neither
    data nor model, and removes everything that it wrote.
    """
    from rich.table import Table

    from recipe.critic_r1.launch.supervisor import interrupt_on_sigterm
    from recipe.critic_r1.rehearsal.dress_rehearsal import RehearsalError
    from recipe.critic_r1.rehearsal.dress_rehearsal import rehearse as run
    from recipe.critic_r1.rehearsal.outcome import outcome
    from recipe.critic_r1.train import ConfigurationError

    interrupt_on_sigterm()
    try:
        config, measured = run(config_name, context.args, console, tiny=tiny, log=log)
    except (ConfigurationError, RehearsalError, OSError) as error:
        raise ending(error) from error
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left of the rehearsal")
        raise typer.Exit(130) from None
    found = outcome(config, measured)
    table = Table("", "measured", "estimate", "limit", title=f"{config_name}, three steps", title_justify="left")
    for row in found.rows:
        table.add_row(row.name, row.measured, row.estimate, row.limit)
    console.print(table)
    say(f"Verdict: {found.verdict}.")
    for line in found.advice:
        say(f"  {line}")
    if not found.fits:
        raise typer.Exit(1)


def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the model: new, empty, or an earlier export, which is replaced.")
    ],
    step: Annotated[int | None, typer.Option(help="Step to export, instead of --which.")] = None,
    which: Annotated[str, typer.Option(help="`last` checkpoint, or `best` by held-out accuracy.")] = "last",
    check: Annotated[
        bool, typer.Option(help="Load the export and compare its output with the checkpoint's; takes as much memory.")
    ] = True,
) -> None:
    """Write a checkpoint as a Hugging Face folder with a model card; LoRA adapters are merged."""
    from recipe.critic_r1.training import export as exporter

    try:
        say(exporter.export(run_dir, out, step, which=which, check=check))
    except exporter.ExportError as error:
        raise ending(f"export: {error}") from error


def score(
    file: Annotated[Path, typer.Argument(help="samples.jsonl of a run, or a file of verl's trainer.rollout_data_dir.")],
    reward: Annotated[str, typer.Option(help="Reward to apply: FILE:FUNCTION or pkg://MODULE:FUNCTION.")] = (
        "pkg://reward_fns.mixed:compute_score"
    ),
    against: Annotated[
        str, typer.Option(help="Reward to compare with; `recorded` takes the scores in the file.")
    ] = "recorded",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the reward, key=value; the value is JSON or text.")
    ] = None,
    against_option: Annotated[list[str] | None, typer.Option(help="Option of the reward in --against.")] = None,
    data_source: Annotated[str, typer.Option(help="Data source of rows that do not name one.")] = "critic/unknown",
    show: Annotated[int, typer.Option(min=0, help="Print at most this many rows that differ.")] = 20,
) -> None:
    """Score the rollouts of a run again, and show where two rewards differ and why."""
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
        raise ending(f"score: {error}") from error
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
    app.command(context_settings=_PASS_ON)(rehearse)
    app.command()(export)
    app.command()(score)
