"""The demo on several seeds and its control, as one result file.

    python -m benchmarks.demo --out benchmarks/results/demo.json

Each run is ``critic-r1 demo`` in a folder of its own under ``runs/bench-demo``; a run that is finished is not repeated,
so the command can be stopped and started again. The control turns over half of the training labels: what it still gains
is not learned from preferences.

Reported for every seed: each metric before and after with its 95 % interval over images. Reported over seeds: the
mean change with a 95 % t-interval (n is small, so it is wide), and how many seeds rose.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy import stats

from recipe.critic_r1 import provenance
from recipe.critic_r1.demo.pipeline import results
from recipe.critic_r1.training.run_log import read_lines

CONTROL_FLIP = 0.5


def _run(folder: Path, seed: int, flip: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "recipe.critic_r1.cli", "demo", "--resume", "--out", str(folder)]
    command += ["--seed", str(seed), "--flip-labels", str(flip)]
    subprocess.run(command, check=True)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps = list(read_lines(folder / "train" / "metrics.jsonl"))
    agreement = [step["data"]["training/rollout_actor_probs_pearson_corr"] for step in steps]
    return {
        "seed": seed,
        "flip_labels": flip,
        "stages": {stage["name"]: stage["seconds"] for stage in record["stages"]},
        "peak_memory_gb": max(stage["peak_memory_gb"] for stage in record["stages"]),
        "steps": len(steps),
        "median_step_seconds": float(np.median([step["data"]["timing_s/step"] for step in steps])),
        "lowest_agreement": min(agreement),
        "metrics": {name: {"before": before, "after": after} for name, before, after in results(folder)},
    }


def _change(run: dict[str, Any], metric: str) -> float:
    found = run["metrics"][metric]
    return found["after"]["value"] - found["before"]["value"]


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean change of each metric over runs, with a 95 % t-interval and the number of runs in which it rose."""
    summary = {}
    for metric in runs[0]["metrics"]:
        changes = np.array([_change(run, metric) for run in runs])
        half = float(stats.t.ppf(0.975, len(changes) - 1) * stats.sem(changes)) if len(changes) > 1 else float("nan")
        mean = float(changes.mean())
        summary[metric] = {
            "mean_change": mean,
            "low": mean - half,
            "high": mean + half,
            "rose": int((changes > 0).sum()),
            "runs": len(changes),
        }
    return summary


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
        cells = [
            f"{100 * m['before']['value']:.1f} → {100 * m['after']['value']:.1f}"
            for m in (run["metrics"][metric] for run in [*runs, control])
        ]
        over = result["over_seeds"][metric]
        change = f"{100 * over['mean_change']:+.1f} [{100 * over['low']:.1f}, {100 * over['high']:.1f}]"
        lines.append(f"| {title} | {' | '.join(cells[:-1])} | {change} | {cells[-1]} |")
    return "\n".join(lines)


def main(
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="A seed; may be given several times.")] = None,
    control_seed: Annotated[int, typer.Option(help="Seed of the control run.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("runs/bench-demo"),
    out: Annotated[Path, typer.Option(help="Result file.")] = Path("benchmarks/results/demo.json"),
) -> None:
    """Run the demo on several seeds and write the results."""
    runs = [_run(folder / f"seed{seed}", seed, 0.0) for seed in (seeds or [0, 1, 2])]
    control = _run(folder / "control", control_seed, CONTROL_FLIP)
    result = {
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "runs": runs,
        "over_seeds": over_seeds(runs),
        "control": control,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    print(out)


if __name__ == "__main__":
    typer.run(main)
