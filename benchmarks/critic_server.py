r"""The demo's models behind a real server, by the commands that a user types: critic, best-of-N, self-improvement.

    python -m benchmarks.critic_server critic runs/demo
    python -m benchmarks.critic_server best-of-n runs/demo
    python -m benchmarks.critic_server self-improvement runs/demo

RUN is a finished `critic-r1 demo`. Each command serves the models of RUN one after another with `critic-r1 serve`, runs
`critic-r1 judge`, `compare`, `best-of-n` or `label` against them, and writes its figures, with intervals over images,
to `benchmarks/results/`. What the commands wrote stays in `runs/bench-server`, journals included, so a repetition asks
nothing again.
"""

import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from benchmarks import harness
from benchmarks.harness import COMMAND, RESULTS, Server, served, training
from recipe.critic_r1.judging.intervals import wilson

LENGTH = ("--max-model-len", "512")
"""Of the server: the demo's prompts have 50 tokens."""

ANSWER = ("--max-tokens", "24")
"""The demo's answers have 14 tokens."""

SHORT = ("--shown", "answer", "--template", "compact", *ANSWER)
"""How the demo's critic was trained: it compares final answers, in the template for tiny models."""

SELECTORS = ("--selector", "weighted_knock_out", "--selector", "round_robin")

LARGEST_TABLE = 16
"""Candidates of a round robin."""

app = typer.Typer(no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="Folder of a finished `critic-r1 demo`.")]
Folder = Annotated[Path, typer.Option(help="For everything that the commands write.")]
FOLDER = Path("runs/bench-server")


class Commands:
    """Runs commands and remembers what was typed, without the places of this machine, and how long it took."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.typed: list[dict[str, Any]] = []
        self._places = {str(run.resolve()): "RUN", str(folder.resolve()): "OUT", str(run): "RUN", str(folder): "OUT"}

    def __call__(self, *words: object) -> None:
        """Run `critic-r1` with these words."""
        self.run([COMMAND, *map(str, words)])

    def run(self, command: list[str], log: Path | None = None) -> None:
        """Run a command; what it prints goes to the log when there is one."""
        start = time.perf_counter()
        with log.open("w", encoding="utf-8") if log else nullcontext() as lines:
            subprocess.run(command, check=True, stdout=lines, stderr=lines)
        text = " ".join(command).replace(COMMAND, "critic-r1").replace(sys.executable, "python")
        for place, name in self._places.items():
            text = text.replace(place, name)
        text = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST", text)
        self.typed.append({"command": text, "seconds": round(time.perf_counter() - start, 1)})


def models(run: Path) -> dict[str, Path]:
    """Name -> folder of the demo's models, before and after training."""
    return {"before": run / "model" / "warm", "after": run / "model" / "trained"}


def judged(critic: Commands, server: Server, run: Path, out: Path) -> dict[str, Any]:
    """The held-out critic pairs, judged in both orders."""
    critic("judge", run / "data" / "critic" / "test-00000.parquet", *server.options, *ANSWER, "--out", out)
    found: dict[str, Any] = json.loads((out / "judge.json").read_text(encoding="utf-8"))
    return {name: figure for name, figure in found["metrics"].items() if figure["n"]}


def chosen(critic: Commands, server: Server, run: Path, out: Path, n: int) -> dict[str, Any]:
    """The held-out questions, each answered n times and chosen among in every way."""
    words = ("--n", n, "--small-n", min(n, LARGEST_TABLE), *SHORT, *SELECTORS)
    critic("best-of-n", run / "data" / "policy", *server.options, *words, "--out", out)
    found: dict[str, Any] = json.loads((out / "best_of_n.json").read_text(encoding="utf-8"))
    return {name: found[name] for name in ("metrics", "curves", "bill")}


def compared(critic: Commands, first: Path, second: Path, out: Path) -> dict[str, Any]:
    """Two judged runs, paired by image."""
    critic("compare", first, second, "--out", out)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    kept = ("accuracy", "accuracy_both_orders", "swap_consistency", "position_bias")
    return {"mcnemar": found["mcnemar"], **{name: found["figures"][name] for name in kept}}


def write(name: str, critic: Commands, content: dict[str, Any]) -> None:
    """A result file with the machine, the versions and the commands."""
    harness.write(RESULTS / name, {"commands": critic.typed, **content})


@app.command()
def critic(run: Run, folder: Folder = FOLDER) -> None:
    """The critic benchmark before and after training, and the paired difference."""
    commands, found = Commands(run, folder), {}
    for name, model in models(run).items():
        with served(model, name, folder / "critic" / f"{name}.log", *LENGTH) as server:
            found[name] = judged(commands, server, run, folder / "critic" / name)
    here = folder / "critic"
    changed = compared(commands, here / "before", here / "after", here / "compare.json")
    write("served_critic.json", commands, {**found, "change": changed})


@app.command("best-of-n")
def best_of_n(run: Run, folder: Folder = FOLDER, n: Annotated[int, typer.Option(help="A power of two.")] = 32) -> None:
    """Best-of-N with every selector on the same candidates, before and after training."""
    commands, found = Commands(run, folder), {}
    for name, model in models(run).items():
        with served(model, name, folder / "best-of-n" / f"{name}.log", *LENGTH) as server:
            found[name] = chosen(commands, server, run, folder / "best-of-n" / name, n)
    write("served_best_of_n.json", commands, found)


@app.command("self-improvement")
def self_improvement(run: Run, folder: Folder = FOLDER, seed: Annotated[int, typer.Option()] = 0) -> None:
    """One round: the trained model answers, labels its own answers, trains on the labels, and is measured again."""
    commands, here = Commands(run, folder), folder / "self-improvement"
    answered, trained = here / "label", models(run)["after"]
    with served(trained, "before", here / "before.log", *LENGTH) as server:
        before = judged(commands, server, run, here / "before")
        best_before = chosen(commands, server, run, here / "best-before", 8)
        draw = ("--samples", 8, "--redraw", "--max-pairs", 1, "--seed", seed)
        commands(
            "label", run / "data" / "critic" / "train-00000.parquet", *server.options, *draw, *SHORT, "--out", answered
        )
    commands("validate", answered / "tasks")
    train(commands, trained, answered / "tasks", run, here / "run", seed)
    commands("export", here / "run", "--out", here / "model")
    with served(here / "model", "after", here / "after.log", *LENGTH) as server:
        after = judged(commands, server, run, here / "after")
        best_after = chosen(commands, server, run, here / "best-after", 8)
    label = json.loads((answered / "label.json").read_text(encoding="utf-8"))
    right = agreement(answered / "judged.jsonl", run)
    write(
        "self_improvement.json",
        commands,
        {
            "labelled": {**label["counts"]["pairs"], "swap_consistency": label["swap_consistency"], **right},
            "critic": {"before": before, "after": after},
            "change": compared(commands, here / "before", here / "after", here / "compare.json"),
            "best_of_8": {"before": best_before["metrics"], "after": best_after["metrics"]},
        },
    )


def agreement(judged: Path, run: Path) -> dict[str, Any]:
    """How often a label is the truth, which the training pairs tell for each image and the loop does not see."""
    truth = {}
    for row in pq.read_table(
        run / "data" / "critic" / "train-00000.parquet", columns=["extra_info", "reward_model"]
    ).to_pylist():
        info = row["extra_info"]
        truth[info["image_blake3"][0]] = info[f"response_{row['reward_model']['ground_truth']}"]
    lines = [json.loads(line) for line in judged.read_text(encoding="utf-8").splitlines()]
    found = [
        line[f"response_{line['chosen']}"] == truth[line["image_blake3"][0]]
        for line in lines
        if line["outcome"] == "labelled" and truth[line["image_blake3"][0]] in (line["response_1"], line["response_2"])
    ]
    right = sum(found)
    low, high = wilson(right, len(found))
    return {
        "labels with the true digit in the pair": len(found),
        "of them right": {"value": right / len(found), "low": low, "high": high},
    }


def train(commands: Commands, model: Path, tasks: Path, run: Path, out: Path, seed: int) -> None:
    """The variant `self_improvement` of the demo on the labelled pairs."""
    command = training(["+variant=self_improvement"])
    command += [f"critic_r1.run_dir={out.resolve()}", f"actor_rollout_ref.model.path={model.resolve()}"]
    command += [f"data.train_files={next(tasks.glob('*.parquet')).resolve()}", f"data.seed={seed}"]
    command += [f"data.val_files={(run / 'data' / 'critic' / 'test-00000.parquet').resolve()}"]
    command += [f"actor_rollout_ref.rollout.seed={seed}", "actor_rollout_ref.actor.optim.lr=2.0e-4"]
    out.mkdir(parents=True, exist_ok=True)
    commands.run(command, log=out / "train.log")


if __name__ == "__main__":
    app()
