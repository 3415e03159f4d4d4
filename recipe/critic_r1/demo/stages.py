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
from recipe.critic_r1.demo import VariantName
from recipe.critic_r1.demo.console import progress_line

if TYPE_CHECKING:
    from data_prep.sources.digits import DigitImage
    from data_prep.tasks.pairwise import PreferencePair
    from data_prep.tasks.row import HasRow
    from recipe.critic_r1.demo.phrases import Variant

SPLIT_SIZES = {"n_warm_start": 20, "n_rl": 1000, "n_test": 400}
"""Images. Two of each digit for the warm start: with four the base already judged 83 % of the hard pairs right."""


def prepare(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the demo run.")],
    seed: Annotated[int, typer.Option(help="Seed of the model, the split, the warm start and the pairs.")] = 0,
    flip_labels: Annotated[float, typer.Option(help="Share of training pairs whose label is flipped.")] = 0.0,
    variant: Annotated[VariantName | None, typer.Option(help="Variant of the critic task.")] = None,
    coherence_gate: Annotated[float | None, typer.Option(help="Minimum coherence of the warm start.")] = None,
) -> None:
    """Make the tiny model, warm it up, and write the critic tasks with wrong answers of its own."""

    from data_prep.sources import digits
    from data_prep.tasks.ordering import preference_tasks
    from data_prep.writer import write_parquet
    from recipe.critic_r1.demo.phrases import TEMPLATE, VARIANTS
    from recipe.critic_r1.demo.warm_start import hard_negatives

    images = digits.load_digit_images()
    split = digits.digit_split(seed, **SPLIT_SIZES)
    form = VARIANTS[variant]

    def chosen(name: str) -> list[digits.DigitImage]:
        return [images[i] for i in split[name]]

    warm = run_dir / "model" / "warm"
    if not warm.exists():  # it is renamed into place when it is complete
        _warm_up(run_dir / "model", warm, chosen("warm_start"), seed, form, coherence_gate)
    print(progress_line(1, 1, "sampling wrong answers from the warm start's own errors"), flush=True)
    wrong = hard_negatives(warm, chosen("rl"), seed=seed, n=form.responses - 1)
    tasks = [*_training_tasks(form, split["rl"], wrong, seed, flip_labels)]
    pairs = digits.digit_pairs(split["test"], hard_negatives(warm, chosen("test"), seed=seed))
    tasks += preference_tasks(pairs, split="test", seed=seed, orders="both", template=TEMPLATE)
    settings = {"seed": seed, "flip_labels": flip_labels, "variant": variant, "split": SPLIT_SIZES,
                "negatives": "errors of the warm start"}  # fmt: skip
    write_parquet(tasks, run_dir / "data" / "critic", settings=settings)
    write_parquet(digits.policy_rows(split["test"]), run_dir / "data" / "policy", settings=settings)


def _training_tasks(
    form: Variant, indices: Sequence[int], wrong: dict[int, list[int]], seed: int, flip_labels: float
) -> Iterator[HasRow]:
    from data_prep.sources.digits import digit_choices, digit_pairs
    from data_prep.tasks.nway import RankTask
    from data_prep.tasks.ordering import preference_tasks, shuffled_places
    from recipe.critic_r1.demo.phrases import TEMPLATE

    if form.responses > 2:
        for place, item in enumerate(digit_choices(indices, wrong)):
            yield RankTask(item, shuffled_places(item.pair_id, form.responses, seed), "train", place, compact=True)
        return
    pairs = digit_pairs(indices, wrong)
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
    folder: Path, warm: Path, images: Sequence[DigitImage], seed: int, form: Variant, coherence_gate: float | None
) -> None:
    from recipe.critic_r1.demo.model import build_model
    from recipe.critic_r1.demo.warm_start import WarmStartSettings, warm_start

    def show(done: int, total: int, text: str) -> None:
        if done % 10 == 0 or done == total:
            print(progress_line(done, total, text), flush=True)

    settings = WarmStartSettings()
    if coherence_gate is not None:
        settings = replace(settings, gate=coherence_gate)
    base, scratch = build_model(folder / "base", seed, form), folder / ".warm"
    shutil.rmtree(scratch, ignore_errors=True)
    result = warm_start(base, images, scratch, seed=seed, variant=form, settings=settings, progress=show)
    facts = {"coherence": result.coherence, "steps": result.steps, "settings": asdict(settings)}
    write_json(scratch / "warm_start.json", facts)
    scratch.rename(warm)


if __name__ == "__main__":
    typer.run(prepare)
