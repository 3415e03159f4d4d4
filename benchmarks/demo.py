"""The demo on several seeds and its control, as one result file.

    python -m benchmarks.demo --seed 3 --seed 4 --seed 5 --control-seed 3 --out benchmarks/results/demo_fresh_seeds.json

Each run is ``critic-r1 demo`` in a folder of its own under ``runs/bench-demo``; a finished run is not repeated, so the
command can be stopped and started again. The control flips half of the training labels: what it still gains is not
learned from preferences.

Reported for every seed: each metric before and after with its 95 % interval over images. Reported over seeds: the
mean change with a 95 % t-interval (n is small, so it is wide), and the number of seeds that rose.
"""

import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy import stats

from benchmarks.harness import COMMAND, RESULTS, Out, write
from recipe.critic_r1.demo.pipeline import results
from recipe.critic_r1.training.run_log import read_lines

CONTROL_FLIP = 0.5


def _run(folder: Path, seed: int, flip: float) -> dict[str, Any]:
    command = [COMMAND, "demo", "--resume", "--out", str(folder), "--seed", str(seed), "--flip-labels", str(flip)]
    subprocess.run(command, check=True)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps = [step["data"] for step in read_lines(folder / "train" / "metrics.jsonl")]
    return {
        "seed": seed,
        "flip_labels": flip,
        "stages": {stage["name"]: stage["seconds"] for stage in record["stages"]},
        "peak_memory_gb": max(stage["peak_memory_gb"] for stage in record["stages"]),
        "steps": len(steps),
        "median_step_seconds": float(np.median([step["timing_s/step"] for step in steps])),
        "lowest_agreement": min(step["training/rollout_actor_probs_pearson_corr"] for step in steps),
        "metrics": {name: {"before": before, "after": after} for name, before, after in results(folder)},
    }


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean change of each metric over runs, with the number of runs in which it rose; with several runs also `low` and
    `high` of a 95 % t-interval."""
    summary = {}
    for metric in runs[0]["metrics"]:
        found = [run["metrics"][metric] for run in runs]
        changes = np.array([one["after"]["value"] - one["before"]["value"] for one in found])
        mean, rose = float(changes.mean()), int((changes > 0).sum())
        summary[metric] = {"mean_change": mean, "rose": rose, "runs": len(changes)}
        if len(changes) > 1:
            half = float(stats.t.ppf(0.975, len(changes) - 1) * stats.sem(changes))
            summary[metric] |= {"low": mean - half, "high": mean + half}
    return summary


def points(change: dict[str, float]) -> str:
    """A change of `over_seeds` in percentage points, with its interval where there is one."""
    interval = f" [{100 * change['low']:.1f}, {100 * change['high']:.1f}]" if "low" in change else ""
    return f"{100 * change['mean_change']:+.1f}{interval}"


TABLE = {
    "critic/accuracy": "critic accuracy, hard pairs, both orders",
    "critic/swap_consistency": "same verdict in both orders",
    "policy/sampled": "policy accuracy, sampled at T = 1",
    "policy/greedy": "policy accuracy, greedy",
    "best_of_8/majority": "majority of 8 samples",
    "best_of_8/knock_out": "best of 8 by its own critic",
    "best_of_8/oracle": "best of 8 by an oracle",
}


def table(result: dict[str, Any]) -> str:
    """The results as the Markdown table of the README, in percent; the interval is over seeds."""
    runs, control = result["runs"], result["control"]
    lines = [
        f"| held-out images, % | {' | '.join('seed ' + str(run['seed']) for run in runs)} | mean change | control |",
        "|---|" + "---|" * (len(runs) + 2),
    ]
    for metric, title in TABLE.items():
        found = [run["metrics"].get(metric) for run in [*runs, control]]
        if None in found:
            continue
        cells = [f"{100 * m['before']['value']:.1f} → {100 * m['after']['value']:.1f}" for m in found]
        change = points(result["over_seeds"][metric])
        lines.append(f"| {title} | {' | '.join(cells[:-1])} | {change} | {cells[-1]} |")
    return "\n".join(lines)


def main(
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of a run (default: 0, 1, 2). Repeatable.")
    ] = None,
    control_seed: Annotated[int, typer.Option(help="Seed of the control run.")] = 0,
    folder: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/bench-demo"),
    out: Out = RESULTS / "demo.json",
) -> None:
    """Run the demo on several seeds and write the results."""
    runs = [_run(folder / f"seed{seed}", seed, 0.0) for seed in (seeds or [0, 1, 2])]
    control = _run(folder / "control", control_seed, CONTROL_FLIP)
    result = {"runs": runs, "over_seeds": over_seeds(runs), "control": control}
    print(table(result))
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
