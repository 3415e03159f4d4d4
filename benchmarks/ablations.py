"""Each ablation of the paper, two steps on a CPU with the demo's model and data.

    python -m benchmarks.ablations

Two steps say nothing about what an ablation does to a model; they show that each of them runs through the real stack:

- ``format_only``, ``policy_only``, ``critic_and_policy``: GRPO with the group ``ablation/``
- ``policy_then_critic``: GRPO on the model that ``policy_only`` left, exported with ``critic-r1 export``
- ``supervised``: verl's SFT trainer under torchrun, with ``config/critic_sft.yaml``, on the same critic rows

Policy rows are plain questions about the training images of the run's critic rows. A finished run is not
repeated.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness import RESULTS, DemoFolder, Out, follow, once, training, write
from data_prep.sources import digits
from data_prep.writer import write_parquet
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings
from recipe.critic_r1.demo.stages import SPLIT_SIZES
from recipe.critic_r1.training.export import export
from recipe.critic_r1.training.run_log import METRICS, SAMPLES, read_lines

STEPS = 2
POLICY_ROWS = 200


def grpo(run: Path, folder: Path, ablation: str, *more: str) -> dict[str, Any]:
    """Two steps of GRPO with ``ablation/``; what was paid for what."""
    command = training([f"+ablation={ablation}", *DemoRun(run, DemoSettings(), Console()).train_overrides()])
    command += [f"critic_r1.run_dir={folder}"]
    command += [f"trainer.total_training_steps={STEPS}", f"trainer.save_freq={STEPS}", "trainer.logger=[console]"]
    seconds = follow([*command, *more], folder / "log")
    metrics = [record["data"] for record in read_lines(folder / "train" / METRICS)]
    samples = list(read_lines(folder / "train" / SAMPLES))
    paid: dict[str, Counter[str]] = {}
    for sample in samples:
        paid.setdefault(sample["data_source"], Counter())[f"{sample['score']:g}"] += 1
    return {
        "seconds": seconds,
        "steps": len(metrics),
        "grad_norm": [data["actor/grad_norm"] for data in metrics],
        "score": [data["critic/score/mean"] for data in metrics],
        "scores_by_source": {source: dict(sorted(counts.items())) for source, counts in paid.items()},
    }


def supervised(run: Path, folder: Path) -> dict[str, Any]:
    """Two steps of verl's SFT trainer; its losses."""
    demo = DemoRun(run, DemoSettings(), Console())
    given = dict(item.split("=", 1) for item in demo.train_overrides())
    command = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "1", "-m"]
    command += ["verl.trainer.sft_trainer", "--config-path", "pkg://recipe.critic_r1.config"]
    command += ["--config-name", "critic_sft", f"model.path={given['actor_rollout_ref.model.path']}"]
    command += [f"{key}={given[key]}" for key in ("data.train_files", "data.val_files")]
    command += [f"trainer.default_local_dir={folder / 'checkpoints'}", f"trainer.total_training_steps={STEPS}"]
    command += [f"trainer.save_freq={STEPS}", f"trainer.test_freq={STEPS}", "data.val_max_samples=32"]
    command += ["trainer.logger=[console]", "trainer.n_gpus_per_node=1", "data.train_batch_size=32"]
    # What cluster/cpu.yaml says for GRPO, under the names of this trainer; and no limits for images of 16 pixels.
    command += ["trainer.device=cpu", "model.external_lib=recipe.critic_r1.cpu.fsdp_engine", "data.num_workers=0"]
    command += ["model.use_remove_padding=false", "+model.override_config.attn_implementation=sdpa"]
    command += ["model.enable_gradient_checkpointing=false", "engine.use_torch_compile=false"]
    command += ["data.mm_processor_kwargs.min_pixels=1"]
    environment = {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    seconds = follow(command, folder / "log", environment=environment)
    text = (folder / "log").read_text(errors="replace")
    checkpoint = folder / "checkpoints" / f"global_step_{STEPS}" / "huggingface"
    return {
        "seconds": seconds,
        "train_loss": [float(value) for value in re.findall(r"train/loss:([\d.]+)", text)],
        "grad_norm": [float(value) for value in re.findall(r"train/grad_norm:([\d.]+)", text)],
        "held_out_loss": [float(value) for value in re.findall(r"val/loss:([\d.]+)", text)],
        "checkpoint": sorted(path.name for path in checkpoint.glob("*.safetensors")),
    }


def main(
    run: DemoFolder = Path("runs/demo"),
    folder: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/bench-ablations"),
    out: Out = RESULTS / "ablations.json",
) -> None:
    """Run each ablation for two steps."""
    run, folder = run.absolute(), folder.absolute()
    split = digits.digit_split(0, **SPLIT_SIZES)
    write_parquet(digits.policy_rows(split["rl"][:POLICY_ROWS], split="train"), folder / "policy")
    critic, policy = run / "data" / "critic" / "train-00000.parquet", folder / "policy" / "train-00000.parquet"

    def policy_then_critic(at: Path) -> dict[str, Any]:
        model = export(folder / "policy_only", folder / "policy_model")
        return grpo(run, at, "policy_then_critic", f"actor_rollout_ref.model.path={model}")

    ablations: dict[str, Callable[[Path], dict[str, Any]]] = {
        "format_only": lambda at: grpo(run, at, "format_only"),
        "policy_only": lambda at: grpo(run, at, "policy_only", f"data.train_files={policy}"),
        "critic_and_policy": lambda at: grpo(run, at, "critic_and_policy", f"data.train_files=[{critic},{policy}]"),
        "policy_then_critic": policy_then_critic,
        "supervised": lambda at: supervised(run, at),
    }
    found = {name: once(folder, name, train) for name, train in ablations.items()}
    print(json.dumps(found, indent=1))
    write(out, {"steps": STEPS, "ablations": found})


if __name__ == "__main__":
    typer.run(main)
