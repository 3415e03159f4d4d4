"""Where the time of a demo run's training goes on a CPU, on verl's own rollout path and on ours.

    python -m benchmarks.step_time

Takes the model and the data of a finished demo run and trains a few steps from them, one variant after the other:

- ``stock``: verl's agent loop, and its poll for finished rollouts every two seconds
- ``stock, polled sooner``: the same, polled every 0.2 s
- ``shared``: a prompt prepared once for its rollouts, an image seen once in a micro-batch, polled every 0.2 s
- ``once``: the same, and a prompt computed once for its group in training (the default of our configurations)

Reported are the median and the spread of each part of a step, without the first step (it pays for lazy imports), and
the start-up, in parts that end when a process of the run is first seen. ``stock`` and ``once`` train once more with a
seed for each request (`benchmarks.seeded`), one request after the other, so that both sample the same responses:
``same_result`` is the largest difference of what the trainer then logs. What scikit-learn adds to the start of every
process that imports transformers (`recipe.critic_r1.compat` hides it) is measured apart.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.harness import RESULTS, DemoFolder, Out, follow, spread, title_of, training, write
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings
from recipe.critic_r1.launch import processes
from recipe.critic_r1.training.run_log import read_lines

STOCK = ["critic_r1.image_path=stock", "critic_r1.prompt_path=stock"]
VARIANTS = {
    "stock": [*STOCK, "critic_r1.poll_interval_seconds=2.0"],
    "stock, polled sooner": STOCK,
    "shared": ["critic_r1.image_path=shared", "critic_r1.prompt_path=stock"],
    "once": ["critic_r1.image_path=shared", "critic_r1.prompt_path=once"],
}
SAME = ("stock", "once")
"""The variants that are compared with the same samples."""
PARTS = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "step")

STARTS = {
    "imports, configuration, preflight": ("raylet/raylet",),
    "Ray": ("ray::TaskRunner",),
    "trainer": ("ray::WorkerDict",),
    "actor and reference": ("ray::vLLMHttpServer", "ray::GroupServer"),
}
"""Parts of the start-up, and the process whose first sight ends each; the rest lasts until the first step begins."""

SEEDED = [
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=benchmarks.seeded.SeededLoops",
    "actor_rollout_ref.rollout.max_num_seqs=1",
    "actor_rollout_ref.rollout.enable_prefix_caching=false",
]
"""One request at a time and nothing kept of another: what a request computes does not depend on when it came."""
COMPARED = (
    "critic_r1/accuracy",
    "critic_r1/score",
    "critic_r1/format_rate",
    "response_length/mean",
    "actor/pg_loss",
    "actor/kl_loss",
    "actor/grad_norm",
    "training/rollout_actor_probs_pearson_corr",
)
SEEDED_STEPS = 4

IMPORTS = "import verl, transformers.generation, transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"


@dataclass
class Sights(processes.PeakMemory):
    """When each part of the start-up ended, in seconds from the first look."""

    started: float = field(default_factory=time.monotonic)
    ended: dict[str, float] = field(default_factory=dict)

    def look(self, run_id: str) -> None:
        waiting = [part for part in STARTS if part not in self.ended]
        titles = [title_of(pid) for pid in processes.with_run_id(run_id)] if waiting else []
        for part in waiting:
            if any(start in title for title in titles for start in STARTS[part]):
                self.ended[part] = time.monotonic() - self.started

    def parts(self, begin: float) -> dict[str, float]:
        """Seconds of each part; the first step begins at ``begin``."""
        moments = [0.0, *(self.ended[part] for part in STARTS), begin]
        names = [*STARTS, "rollout engine, agent loops"]
        return {name: round(moments[i + 1] - moments[i], 2) for i, name in enumerate(names)}


def train(run: Path, overrides: list[str], steps: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Train ``steps`` steps from a demo run's warm start; returns what each step logged, and the start-up's parts."""
    from rich.console import Console

    with TemporaryDirectory() as scratch:
        base = DemoRun(run, DemoSettings(), Console()).train_overrides()
        arguments = [*base, f"critic_r1.run_dir={scratch}", "trainer.save_freq=-1"]
        arguments += [f"trainer.total_training_steps={steps}", *overrides]
        metrics = Path(scratch) / "train" / "metrics.jsonl"
        sights, first_line = Sights(), [0.0]

        def watch() -> None:
            if not first_line[0] and metrics.exists() and metrics.stat().st_size:
                first_line[0] = time.monotonic()

        follow(training(arguments), Path(scratch) / "log", look=watch, memory=sights)
        records = [record["data"] for record in read_lines(metrics)]
    return records, sights.parts(first_line[0] - sights.started - records[0]["timing_s/step"])


def measure(run: Path, overrides: list[str], steps: int) -> dict[str, Any]:
    """Seconds of each part of a step, and of the start-up; and what else the machine was doing when it began."""
    load = os.getloadavg()[1]
    records, start_up = train(run, overrides, steps)
    parts = {part: spread([record[f"timing_s/{part}"] for record in records[1:]]) for part in PARTS}
    return {
        "load_average_before": round(load, 1),
        "start_up_seconds": round(sum(start_up.values()), 2),
        "start_up": start_up,
        "first_step_seconds": records[0]["timing_s/step"],
        "steps": len(records),
        "seconds": parts,
        "accuracy": [record["critic_r1/accuracy"] for record in records],
    }


def same_result(run: Path) -> dict[str, Any]:
    """What both paths log when they sample the same responses, and the largest difference of each figure."""
    found = {name: train(run, [*VARIANTS[name], *SEEDED], SEEDED_STEPS)[0] for name in SAME}
    logged = {name: {key: [record[key] for record in records] for key in COMPARED} for name, records in found.items()}
    stock, once = (logged[name] for name in SAME)
    pairs = {key: list(zip(stock[key], once[key], strict=True)) for key in COMPARED}
    return {
        "steps": SEEDED_STEPS,
        "largest_difference": {key: max(abs(a - b) for a, b in values) for key, values in pairs.items()},
        "logged": logged,
    }


def import_seconds() -> dict[str, float]:
    """Seconds that a process of a run spends on importing, with scikit-learn (stock) and without (here); best of 3."""
    found = {}
    for name, first in (("stock", "import sklearn.metrics; "), ("here", "")):
        values = []
        for _ in range(3):
            begun = time.monotonic()
            environment = {**os.environ, "VERL_PLATFORM": "cpu"}
            subprocess.run([sys.executable, "-c", first + IMPORTS], env=environment, check=True, capture_output=True)
            values.append(time.monotonic() - begun)
        found[name] = round(min(values), 2)
    return found


def main(
    run: DemoFolder = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=2, help="Steps per variant.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help="Measure this part again: time, result, imports.")] = None,
    out: Out = RESULTS / "step_time.json",
) -> None:
    """Measure the parts of a step and of the start-up, on each path."""
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    wanted, run = only or ["time", "result", "imports"], run.absolute()
    if "time" in wanted:
        result["variants"] = {name: measure(run, overrides, steps) for name, overrides in VARIANTS.items()}
    if "result" in wanted:
        result["same_result"] = same_result(run)
    if "imports" in wanted:
        result["import_seconds"] = import_seconds()
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
