"""Where the time of a training step goes on a CPU, on verl's own rollout path and on ours.

    python -m benchmarks.step_time --run runs/demo --out benchmarks/results/step_time.json

Takes the model and the data of a finished demo run and trains a few steps from them, one variant after the other:

- ``stock``: verl's agent loop, and its poll for finished rollouts every two seconds
- ``shared``: a prompt prepared once for its rollouts, polled every 0.2 s (the default of our configurations)

Reported are the median and the spread of each part of a step, the first step (which pays for lazy imports) left out,
and the start-up: seconds from the start of the process to the first step's begin.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from recipe.critic_r1 import machine, processes
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings
from recipe.critic_r1.run_log import read_lines

VARIANTS = {
    "stock": ["critic_r1.image_path=stock", "critic_r1.poll_interval_seconds=2.0"],
    "shared": ["critic_r1.image_path=shared"],
}
PARTS = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "step")


def measure(run: Path, overrides: list[str], steps: int) -> dict[str, Any]:
    """Train ``steps`` steps from a demo run's warm start; seconds of each part of a step, and of the start-up."""
    from rich.console import Console

    with TemporaryDirectory() as scratch:
        base = DemoRun(run, DemoSettings(), Console()).train_overrides()
        arguments = [*base, f"critic_r1.run_dir={scratch}", "trainer.save_freq=-1"]
        arguments += [f"trainer.total_training_steps={steps}", *overrides]
        command = [sys.executable, "-m", "recipe.critic_r1.train", "--config-name", "demo", *arguments]
        metrics, log = Path(scratch) / "train" / "metrics.jsonl", Path(scratch) / "log"
        started, first_line = time.monotonic(), [0.0]

        def watch() -> None:
            if not first_line[0] and metrics.exists() and metrics.stat().st_size:
                first_line[0] = time.monotonic()

        status = processes.follow(command, log, on_line=lambda line: None, on_tick=watch)
        if status:
            raise RuntimeError(f"training failed ({status}): {log.read_text(errors='replace')[-2000:]}")
        records = [record["data"] for record in read_lines(metrics)]
    parts = {}
    for part in PARTS:
        values = [record[f"timing_s/{part}"] for record in records[1:]]
        parts[part] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {
        "start_up_seconds": first_line[0] - started - records[0]["timing_s/step"],
        "first_step_seconds": records[0]["timing_s/step"],
        "steps": len(records),
        "seconds": parts,
    }


def main(
    run: Annotated[Path, typer.Option(help="A finished demo run.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=2, help="Steps per variant.")] = 8,
    out: Annotated[Path, typer.Option(help="Result file.")] = Path("benchmarks/results/step_time.json"),
) -> None:
    """Measure the parts of a step on both paths."""
    result: dict[str, Any] = {"machine": machine.machine(), "versions": machine.versions(), "variants": {}}
    for name, overrides in VARIANTS.items():
        result["variants"][name] = measure(run.absolute(), overrides, steps)
        print(name, json.dumps(result["variants"][name]["seconds"]["step"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    typer.run(main)
