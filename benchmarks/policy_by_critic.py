"""A critic trains its own policy, against controls: from the demo's trained model, without labels for its questions.

    python -m benchmarks.policy_by_critic --seeds 0,3,4,5,6 --out benchmarks/results/policy_by_critic.json

For each seed `critic-r1 demo` is run first, or resumed. Its trained model then learns to answer the questions about the
demo's training images in one run for each arm:

- ``frozen``: its own critic, served beside the run with the weights of the start
- ``self``: its own critic with the present weights, in the rollout engine
- ``self_mixed``: the same, with the critic's training rows in the data, which are scored by their labels
- ``shuffled``: control; the scores of ``frozen``, exchanged among the answers of a group
- ``majority``: control; the most frequent answer of a group is paid
- ``truth``: the ceiling; the known answer is paid
- ``second``: a second round of ``frozen``, from the model that the first one ended with, which is policy and critic

Reported for each run: every metric of the demo's evaluation on held-out images before and after, with intervals over
images; the cost of the steps; and where the policy is its own critic, the probe of the critic. Reported for each arm:
mean changes with t-intervals over seeds. ``greedy_over_majority`` compares greedy accuracy after training with the
majority of 8 before it.

A run that is in the result file is not repeated, and an interrupted one resumes from its last checkpoint, so that the
file can grow from machine to machine.
"""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.demo import over_seeds, points
from benchmarks.harness import COMMAND, RESULTS, Out, follow, served, training, write
from data_prep.writer import write_parquet
from recipe.critic_r1.demo.worlds import DIGITS
from recipe.critic_r1.training.run_log import METRICS, read_lines

ARMS = ("frozen", "self", "self_mixed", "shuffled", "majority", "truth", "second")

SERVED = ("frozen", "shuffled", "second")
"""Those that ask a served critic."""

LENGTH = ("--max-model-len", "128")
"""Of the served critic: the demo's prompts have 50 tokens, its verdicts 14."""

Run = dict[str, Any]

GROUP = "critic_r1.group_reward"

PROBED = ("critic_r1/probe/accuracy", "critic_r1/probe/agreement")


def overrides(
    arm: str, demo: Path, start: Path, questions: Path, out: Path, *, seed: int, steps: int, url: str
) -> list[str]:
    """Hydra overrides of a run of `config/demo.yaml`.

    Args:
        demo: folder of the finished demo.
        start: the model that is trained.
        questions: Parquet with the training questions.
        url: of the served critic, for the arms that ask it.
    """
    critic, held_out = (demo / "data" / "critic" / f"{split}-00000.parquet" for split in ("train", "test"))
    rows = [questions, critic] if arm == "self_mixed" else [questions]
    common = [
        f"critic_r1.run_dir={out}",
        f"actor_rollout_ref.model.path={start}",
        f"data.train_files=[{','.join(map(str, rows))}]",
        f"data.val_files={held_out}",
        f"data.seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        "actor_rollout_ref.actor.optim.lr=2.0e-4",
        f"trainer.total_training_steps={steps}",
        "trainer.logger=[console]",
    ]
    if arm == "truth":
        return [*common, "reward.custom_reward_function.path=pkg://reward_fns.mixed"]
    # How the demo's critic was trained: it compares final answers, in the template for tiny models.
    judged = ["+variant=policy_by_critic", *common, f"{GROUP}.template=compact", f"{GROUP}.shown=answer"]
    judged.append(f"+{GROUP}.max_tokens=20")
    if arm.startswith("self"):
        probe = {"files": held_out, "every": 10, "min_agreement": 0, "max_tokens": 20}
        return [*judged, f"{GROUP}.judge=self", *(f"critic_r1.probe.{name}={value}" for name, value in probe.items())]
    judged += [f"{GROUP}.url={url}", f"{GROUP}.model=critic"]
    if arm in ("frozen", "second"):
        return judged
    manager = {"shuffled": "ShuffledGroups", "majority": "MajorityGroups"}[arm]
    place = "reward.reward_manager.module.path=pkg://benchmarks.control_rewards"
    return [*judged, f"reward.reward_manager.name={manager}", place]


def measured(arm: str, demo: Path, questions: Path, folder: Path, *, seed: int, steps: int) -> Run:
    """One arm on one seed, in a folder of its own."""
    out = folder / f"{arm}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    start, before = start_of(arm, demo, folder, seed)
    if not before.exists():
        measured("frozen", demo, questions, folder, seed=seed, steps=steps)
    with served(start, "critic", out / "critic.log", *LENGTH) if arm in SERVED else nullcontext() as server:
        url = server.url if server else "http://127.0.0.1:9/v1"
        command = training(overrides(arm, demo, start, questions, out, seed=seed, steps=steps, url=url))
        seconds = follow(command, out / "train.log")
    model, after = out / "model", out / "eval" / "eval.json"
    shutil.rmtree(model, ignore_errors=True)
    subprocess.run([COMMAND, "export", str(out), "--out", str(model)], check=True)
    evaluate = [sys.executable, "-m", "recipe.critic_r1.demo.evaluate", "--model", str(model), "--out", str(after)]
    data = [word for name in ("critic", "policy") for word in ("--data", str(demo / "data" / name))]
    follow([*evaluate, *data, "--seed", str(seed), "--tag", arm], out / "evaluate.log")
    logged = [step["data"] for step in read_lines(out / "train" / METRICS)]
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "metrics": paired(before, after),
        **costs(logged),
    }


def start_of(arm: str, demo: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """The model that an arm starts from, and its evaluation."""
    if arm == "second":
        first = folder / f"frozen-seed{seed}"
        return first / "model", first / "eval" / "eval.json"
    return demo / "model" / "trained", demo / "eval" / "after" / "eval.json"


def paired(before: Path, after: Path) -> dict[str, dict[str, Any]]:
    """Every metric of two evaluations, with `greedy_over_majority`."""
    first, second = (json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in (before, after))
    found = {name: {"before": first[name], "after": second[name]} for name in first if name in second}
    return found | {"greedy_over_majority": {"before": first["best_of_8/majority"], "after": second["policy/greedy"]}}


def costs(steps: list[dict[str, float]]) -> Run:
    """Medians over the steps after the first, and the critic's probe at its looks."""

    def median(name: str) -> float | None:
        values = [step[name] for step in steps[1:] or steps if name in step]
        return float(np.median(values)) if values else None

    looks = [{"step": n, **{k: s[k] for k in PROBED if k in s}} for n, s in enumerate(steps, 1) if PROBED[0] in s]
    return {
        "step_seconds": median("timing_s/step"),
        "judgements_per_step": median("critic_r1/judge/judgements"),
        "judge_tokens_per_step": median("critic_r1/judge/completion_tokens"),
        "judge_seconds_per_group": median("critic_r1/judge/seconds/mean"),
        "unjudged": median("critic_r1/judge/unjudged"),
        "probe": looks,
    }


TABLE = {
    "policy/greedy": "greedy",
    "policy/sampled": "sampled",
    "greedy_over_majority": "greedy after − majority of 8 before",
    "critic/accuracy": "critic accuracy",
}


def table(result: dict[str, Any]) -> str:
    """Mean changes in points with 95 % intervals over seeds, and costs, as Markdown."""
    lines = [f"| mean change, points | seeds | {' | '.join(TABLE.values())} | judgements a step | seconds a step |"]
    lines.append("|---|" + "---:|" * (len(TABLE) + 3))
    for arm, found in result["arms"].items():
        runs, over = found["runs"], found["over_seeds"]
        cells = [f"{len(runs)}", *(points(over[name]) for name in TABLE)]
        for name in ("judgements_per_step", "step_seconds"):
            values = [run[name] for run in runs if run[name] is not None]
            cells.append(f"{np.mean(values):.1f}" if values else "-")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def known_runs(out: Path, steps: int) -> dict[tuple[str, int], Run]:
    """The runs in a result file, by arm and seed.

    Raises:
        typer.BadParameter: they have another number of steps.
    """
    arms = json.loads(out.read_text(encoding="utf-8"))["arms"] if out.exists() else {}
    found = {(run["arm"], run["seed"]): run for arm in arms.values() for run in arm["runs"]}
    if others := {run["steps"] for run in found.values()} - {steps}:
        raise typer.BadParameter(f"{out} has runs of {others.pop()} steps, not {steps}: choose another --out")
    return found


def summary(runs: dict[tuple[str, int], Run]) -> dict[str, Any]:
    """The result file: for each arm its runs, and the changes over seeds."""
    by_arm = {arm: [runs[key] for key in sorted(runs) if key[0] == arm] for arm in ARMS}
    return {"arms": {arm: {"runs": found, "over_seeds": over_seeds(found)} for arm, found in by_arm.items() if found}}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,3,4,5,6",
    arms: Annotated[str, typer.Option(help="Arms to run, separated by commas.")] = ",".join(ARMS),
    steps: Annotated[int, typer.Option(help="Training steps of a run.")] = 30,
    demos: Annotated[Path, typer.Option(help="Folder with the demos, as `benchmarks.demo` writes it.")] = Path(
        "runs/bench-demo"
    ),
    folder: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/bench-policy-by-critic"),
    out: Out = RESULTS / "policy_by_critic.json",
) -> None:
    """Run each arm on each seed and write the results."""
    chosen, folder = _listed(arms), folder.absolute()
    if unknown := sorted(set(chosen) - set(ARMS)):
        raise typer.BadParameter(f"no arm {unknown[0]}; the arms are {', '.join(ARMS)}")
    runs = known_runs(out, steps)
    for seed in map(int, _listed(seeds)):
        missing = [arm for arm in chosen if (arm, seed) not in runs]
        if not missing:
            continue
        demo = (demos / f"seed{seed}").absolute()
        subprocess.run([COMMAND, "demo", "--resume", "--out", str(demo), "--seed", str(seed)], check=True)
        questions = folder / f"questions-seed{seed}"
        if not (questions / "manifest.json").exists():
            items = enumerate(DIGITS.split(seed)["rl"])
            write_parquet([DIGITS.policy_task(item, number, split="train") for number, item in items], questions)
        rows = questions / "train-00000.parquet"
        for arm in missing:
            runs[arm, seed] = measured(arm, demo, rows, folder, seed=seed, steps=steps)
            write(out, summary(runs))
    print(table(summary(runs)))


if __name__ == "__main__":
    typer.run(main)
