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

A finished run is not repeated, and an interrupted one resumes from its last checkpoint.
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

from benchmarks.demo import over_seeds
from benchmarks.harness import COMMAND, RESULTS, Out, follow, served, training, write
from data_prep.files import write_json
from data_prep.sources import digits
from data_prep.writer import write_parquet
from recipe.critic_r1.demo.stages import SPLIT_SIZES
from recipe.critic_r1.training.run_log import METRICS, read_lines

ARMS = ("frozen", "self", "self_mixed", "shuffled", "majority", "truth", "second")

SERVED = ("frozen", "shuffled", "second")
"""Those that ask a served critic."""

LENGTH = ("--max-model-len", "128")
"""Of the served critic: the demo's prompts have 50 tokens, its verdicts 14."""

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


def measured(arm: str, demo: Path, questions: Path, folder: Path, *, seed: int, steps: int) -> dict[str, Any]:
    """One arm on one seed; kept in `folder/ARM-seedN.json`."""
    record = folder / f"{arm}-seed{seed}.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if found["steps"] != steps:
            raise typer.BadParameter(f"{record} has {found['steps']} steps, not {steps}: choose another --folder")
        return found
    out = folder / f"{arm}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    if arm == "second":
        measured("frozen", demo, questions, folder, seed=seed, steps=steps)
    start, before = start_of(arm, demo, folder, seed)
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
    result = {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "metrics": paired(before, after),
        **costs(logged),
    }
    write_json(record, result)
    return result


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


def costs(steps: list[dict[str, float]]) -> dict[str, Any]:
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
    lines = [f"| mean change, points | {' | '.join(TABLE.values())} | judgements a step | seconds a step |"]
    lines.append("|---|" + "---:|" * (len(TABLE) + 2))
    for arm, found in result["arms"].items():
        changes = [found["over_seeds"][name] for name in TABLE]
        cells = [f"{100 * c['mean_change']:+.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in changes]
        runs = found["runs"]
        for name in ("judgements_per_step", "step_seconds"):
            values = [run[name] for run in runs if run[name] is not None]
            cells.append(f"{np.mean(values):.1f}" if values else "-")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen}
    for seed in map(int, _listed(seeds)):
        demo = (demos / f"seed{seed}").absolute()
        subprocess.run([COMMAND, "demo", "--resume", "--out", str(demo), "--seed", str(seed)], check=True)
        questions = folder / f"questions-seed{seed}"
        if not (questions / "manifest.json").exists():
            indices = digits.digit_split(seed, **SPLIT_SIZES)["rl"]
            write_parquet(digits.policy_rows(indices, split="train"), questions)
        rows = questions / "train-00000.parquet"
        for arm in chosen:
            runs[arm].append(measured(arm, demo, rows, folder, seed=seed, steps=steps))
    result = {"arms": {arm: {"runs": found, "over_seeds": over_seeds(found)} for arm, found in runs.items()}}
    print(table(result))
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
