"""``critic-r1 demo``: the paper in miniature on a CPU."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recipe.critic_r1.demo import VariantName, WorldName

console = Console()

HEADLINES = {
    "critic/accuracy": "Critic accuracy, hard pairs, both orders",
    "critic/swap_consistency": "Swap consistency",
    "critic/format_rate": "Format rate",
    "policy/greedy": "Policy accuracy, greedy",
    "policy/sampled": "Policy accuracy, sampled (T = 1)",
    "policy/greedy/unjudged": "Policy accuracy, greedy, on kinds of question that were never judged",
    "best_of_8/one_sample": "One sample of 8",
    "best_of_8/majority": "Majority of 8",
    "best_of_8/knock_out": "Best of 8 by its own critic",
    "best_of_8/oracle": "Best of 8 by an oracle",
}


def demo(
    out: Annotated[Path, typer.Option(help="Output folder of the run.")] = Path("runs/demo"),
    seed: Annotated[int | None, typer.Option(help="Seed of model, data, training and evaluation (default: 0).")] = None,
    flip_labels: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Control: share of training labels to flip; 0.5 leaves nothing to learn."),
    ] = None,
    world: Annotated[
        WorldName | None, typer.Option(help="Images and questions: digits (the default), or shapes of easy-VQA.")
    ] = None,
    variant: Annotated[
        VariantName | None,
        typer.Option(
            help="Ablation: train another way to judge (docs/rewards.md), with its data, warm start and reward."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the run in --out and start again.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides for training, key=value.")] = None,
) -> None:
    """Train a tiny Qwen2.5-VL as a critic on handwritten digits or shapes, and evaluate it before and after.

    Runs the complete pipeline on a CPU: data, warm start, GRPO by verl, evaluation, self-critique, report.
    """
    from recipe.critic_r1.demo.pipeline import (
        RUN_FILE,
        DemoRun,
        DemoSettings,
        StageFailed,
        resume_command,
        start_over,
    )
    from recipe.critic_r1.launch.supervisor import interrupt_on_sigterm

    interrupt_on_sigterm()
    try:
        if (out / RUN_FILE).exists() and not resume:
            if not fresh and not _ask_to_resume(out):
                raise typer.Exit(1)
            if fresh:
                start_over(out)
        settings = DemoSettings.of_run(out) if (out / RUN_FILE).exists() else DemoSettings()
        settings = replace(
            settings,
            seed=settings.seed if seed is None else seed,
            flip_labels=settings.flip_labels if flip_labels is None else flip_labels,
            world=settings.world if world is None else world,
            variant=settings.variant if variant is None else variant,
            overrides=tuple(overrides) if overrides else settings.overrides,
        )
        console.print(f"critic-r1 demo, seed {settings.seed}, into {out}", highlight=False)
        page = DemoRun(out, settings, console).run()
    except StageFailed as error:
        console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"\nstopped; no process is left running. Resume with: {resume_command(out)}", soft_wrap=True)
        raise typer.Exit(130) from None
    show_results(out)
    console.print(f"Report: {page}", highlight=False)


def _ask_to_resume(out: Path) -> bool:
    if not sys.stdin.isatty():
        console.print(f"{out} holds a run: give --resume to resume it, or --fresh to start again.", soft_wrap=True)
        return False
    return typer.confirm(f"{out} holds a run. Resume it?", default=True)


def show_results(out: Path) -> None:
    """Print the before/after table of a finished run; intervals are 95 %."""
    from recipe.critic_r1.demo.pipeline import results

    table = Table(title="Held-out images, before and after critic training", title_justify="left")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    found = {name: (before, after) for name, before, after in results(out)}
    for name, title in HEADLINES.items():
        before, after = found.get(name, ({}, {}))
        if before.get("value") is not None and after.get("value") is not None:
            change = after["value"] - before["value"]
            table.add_row(title, _interval(before), _interval(after), f"{100 * change:+.1f}")
    Console(width=max(100, min(140, shutil.get_terminal_size().columns))).print(table)


def _interval(estimate: dict[str, Any]) -> str:
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['value']:.1f} [{low:.1f}, {high:.1f}]"


def register(app: typer.Typer) -> None:
    """Add the demo's command to ``app``."""
    app.command()(demo)
