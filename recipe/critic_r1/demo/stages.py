"""The stages of the demo that run in a process of their own: the model, its warm start, its hard negatives, the data.

    python -m recipe.critic_r1.demo.stages prepare RUN_DIR --seed 0

One process for all of them, because each costs little compared with its imports. Training and evaluation have entry
points of their own. Progress is printed in lines that `demo.console` parses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.files import write_json
from recipe.critic_r1.demo import VariantName, WorldName
from recipe.critic_r1.demo.console import progress_line

if TYPE_CHECKING:
    from data_prep.tasks.pairwise import PreferencePair
    from data_prep.tasks.row import HasRow
    from recipe.critic_r1.demo.phrases import Variant
    from recipe.critic_r1.demo.worlds import Item, World


def prepare(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the demo run.")],
    seed: Annotated[int, typer.Option(help="Seed of the model, the split, the warm start and the pairs.")] = 0,
    flip_labels: Annotated[float, typer.Option(help="Share of training pairs whose label is flipped.")] = 0.0,
    world: Annotated[WorldName, typer.Option(help="Images and questions.")] = "digits",
    variant: Annotated[VariantName | None, typer.Option(help="Variant of the critic task.")] = None,
    coherence_gate: Annotated[float | None, typer.Option(help="Minimum coherence of the warm start.")] = None,
) -> None:
    """Make the tiny model, warm it up, and write the critic tasks with wrong answers of its own."""

    from data_prep.tasks.ordering import preference_tasks
    from data_prep.writer import write_parquet
    from recipe.critic_r1.demo.phrases import TEMPLATE, VARIANTS
    from recipe.critic_r1.demo.warm_start import hard_negatives
    from recipe.critic_r1.demo.worlds import WORLDS

    place, form = WORLDS[world], VARIANTS[variant]
    split = place.split(seed)
    warm = run_dir / "model" / "warm"
    if not warm.exists():  # it is renamed into place when it is complete
        _warm_up(run_dir / "model", warm, split["warm_start"], seed, place, form, coherence_gate)
    print(progress_line(1, 1, "sampling wrong answers from the warm start's own errors"), flush=True)

    def wrong(name: str, n: int = 1) -> list[list[str]]:
        return hard_negatives(warm, split[name], seed=seed, world=place, n=n)

    tasks = [*_training_tasks(place, form, split["rl"], wrong("rl", form.responses - 1), seed, flip_labels)]
    pairs = [place.pair(item, first) for item, (first,) in zip(split["test"], wrong("test"), strict=True)]
    tasks += preference_tasks(pairs, split="test", seed=seed, orders="both", template=TEMPLATE)
    settings = {"seed": seed, "flip_labels": flip_labels, "world": world, "variant": variant,
                "split": dict(place.sizes), "items": {name: len(items) for name, items in split.items()},
                "negatives": "errors of the warm start"}  # fmt: skip
    write_parquet(tasks, run_dir / "data" / "critic", settings=settings)
    asked = [
        place.policy_task(item, number, judged=name == "test")
        for name in ("test", "unjudged")
        for number, item in enumerate(split.get(name, ()))
    ]
    write_parquet(asked, run_dir / "data" / "policy", settings=settings)


def _training_tasks(
    world: World, form: Variant, items: Sequence[Item], wrong: list[list[str]], seed: int, flip_labels: float
) -> Iterator[HasRow]:
    from data_prep.tasks.nway import RankTask
    from data_prep.tasks.ordering import preference_tasks, shuffled_places
    from recipe.critic_r1.demo.phrases import TEMPLATE

    if form.responses > 2:
        for number, (item, others) in enumerate(zip(items, wrong, strict=True)):
            ranked = world.ranked(item, others)
            yield RankTask(ranked, shuffled_places(ranked.pair_id, form.responses, seed), "train", number, compact=True)
        return
    pairs = (world.pair(item, first) for item, (first,) in zip(items, wrong, strict=True))
    yield from preference_tasks(
        _with_twins(pairs) if form.ties else pairs,
        split="train",
        seed=seed,
        orders=form.orders,
        template=TEMPLATE,
        flip_labels=flip_labels,
    )


def _with_twins(pairs: Iterator[PreferencePair]) -> Iterator[PreferencePair]:
    from data_prep.tasks.twins import Twins

    twins = Twins()
    for pair in pairs:
        yield pair
        if made := twins.of(pair, [], "train"):
            yield made[0]


def _warm_up(
    folder: Path,
    warm: Path,
    items: Sequence[Item],
    seed: int,
    world: World,
    form: Variant,
    coherence_gate: float | None,
) -> None:
    from recipe.critic_r1.demo.model import build_model
    from recipe.critic_r1.demo.warm_start import WarmStartSettings, warm_start

    def show(done: int, total: int, text: str) -> None:
        if done % 10 == 0 or done == total:
            print(progress_line(done, total, text), flush=True)

    settings = WarmStartSettings()
    if coherence_gate is not None:
        settings = replace(settings, gate=coherence_gate)
    base, scratch = build_model(folder / "base", seed, world, form), folder / ".warm"
    shutil.rmtree(scratch, ignore_errors=True)
    result = warm_start(base, items, scratch, seed=seed, world=world, variant=form, settings=settings, progress=show)
    facts = {"coherence": result.coherence, "steps": result.steps, "settings": asdict(settings)}
    write_json(scratch / "warm_start.json", facts)
    scratch.rename(warm)


if __name__ == "__main__":
    typer.run(prepare)
