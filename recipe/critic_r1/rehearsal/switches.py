"""The switches of the GPU configurations, tried on a machine without a GPU: two training steps each, on gloo ranks.

    found = compare(covering(), Path("work"))

A case is a configuration with ``+device=cpu``, a tiny model of its family and sizes to match; every other switch is
the configuration's own. Its steps are compared with those of the padded float32 path (``cluster=cpu``) on the same
rollouts: one image, two, none, and a response of one token.

    RANK=0 WORLD_SIZE=2 ... python -m recipe.critic_r1.rehearsal.switches CASES RESULT

is one rank of the processes that `compare` starts.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recipe.critic_r1.rehearsal.training_steps import Shape, StepResult, TrainingSteps, rollout

RANKS = 2

SHAPES = [Shape(9, 12, ((60, 60),)), Shape(5, 3, ((120, 64), (56, 90))), Shape(14, 20), Shape(7, 1, ((60, 60),))]
"""Of a rank's rollouts."""

MINI_BATCH = 4
"""Rollouts of an update over all ranks: two updates a step, the second with a policy that has moved."""

SIZES = [
    f"trainer.n_gpus_per_node={RANKS}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    # One step of the release's rate would not be seen.
    "actor_rollout_ref.actor.optim.lr=1e-4",
]

FLOAT32 = (
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision={param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}",
    "+actor_rollout_ref.ref.fsdp_config.mixed_precision={param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}",
)

TINY = {"r1": "tiny_qwen2_5_vl", "r1_plus": "tiny_qwen2_5_vl", "r1_qwen3_vl_8b": "tiny_qwen3_vl"}
"""Architecture of each configuration's family."""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    config: str
    cluster: str
    tuning: str
    precision: str
    """``bf16`` as the configurations have it, or ``fp32``, where rounding hides nothing."""

    @property
    def name(self) -> str:
        return f"{self.config} {self.cluster} {self.tuning} {self.precision}"

    @property
    def reference(self) -> str:
        """Name of the padded run that this one has to agree with."""
        return f"{self.config} padded{' lora' if self.tuning == 'lora' else ''}"

    def overrides(self) -> list[str]:
        switches = [f"cluster={self.cluster}", f"tuning={self.tuning}", "+device=cpu"]
        return [*switches, *(FLOAT32 if self.precision == "fp32" else ())]


@dataclass(frozen=True)
class Agreement:
    """How far two steps of a case are from those of its reference."""

    log_probs: float
    """Largest difference of a token's old or reference log-probability."""
    loss: float
    """Largest relative difference of the loss."""
    grad_norm: float
    """Largest relative difference of the gradient's norm."""
    error: str = ""
    """Traceback where the steps failed."""


def every() -> list[Case]:
    """The whole matrix. Clusters of more machines than one, and ``tuning=async``, have the engine of 1x8, release."""
    return [
        Case(config, cluster, tuning, precision)
        for config in TINY
        for cluster in ("1x8", "1x2")
        for tuning in ("release", "fast", "lora")
        for precision in ("fp32", "bf16")
    ]


def covering() -> list[Case]:
    """A few cells in which every switch occurs, and both families with the ones that concern their model code."""
    return [
        Case("r1", "1x8", "release", "fp32"),  # FSDP1, packed rows
        Case("r1", "1x2", "fast", "bf16"),  # FSDP2, fused kernels, dynamic micro-batches
        Case("r1", "1x2", "lora", "fp32"),
        Case("r1_qwen3_vl_8b", "1x8", "fast", "fp32"),
    ]


def run_ranks(cases: dict[str, list[str]], folder: Path, ranks: int = RANKS) -> dict[str, tuple[list[StepResult], str]]:
    """Two steps of each case, in processes of their own.

    Args:
        cases: by name, a configuration's name and Hydra overrides.
        folder: for the files of the ranks.

    Returns:
        The first rank's steps, and the traceback where they failed.

    Raises:
        RuntimeError: a rank died.
    """
    (folder / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", __spec__.name, str(folder / "cases.json"), str(folder / "result")]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"VERL_PLATFORM": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    started = []
    logs = [folder / f"rank{rank}.log" for rank in range(ranks)]
    for rank, log in enumerate(logs):
        environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as out:
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
    for rank, process in enumerate(started):
        if process.wait() != 0:
            for other in started:
                other.kill()
            raise RuntimeError(f"rank {rank} ended with {process.returncode}: {logs[rank].read_text()[-3000:]}")
    found: dict[str, tuple[list[StepResult], str]] = pickle.loads((folder / "result").read_bytes())
    return found


def compare(cases: Sequence[Case], folder: Path) -> dict[Case, Agreement]:
    """Run ``cases`` and their references, and say how far they are apart.

    Args:
        cases: cells of the matrix.
        folder: for models and logs; made when it does not exist.
    """
    from recipe.critic_r1.rehearsal.architectures import architecture
    from recipe.critic_r1.rehearsal.random_model import make_model

    folder.mkdir(parents=True, exist_ok=True)
    for tiny in {TINY[case.config] for case in cases}:
        make_model(architecture(tiny), folder / tiny, dtype=torch.float32)
    # verl's patches of a model's attention stay for the life of a process: first the references, which need none.
    given: dict[str, list[str]] = {}
    for case in cases:
        tuning = ["tuning=lora"] if case.tuning == "lora" else []
        given[case.reference] = [case.config, "cluster=cpu", *tuning]
    given |= {case.name: [case.config, *case.overrides()] for case in cases}
    for overrides in given.values():
        overrides += [*SIZES, f"actor_rollout_ref.model.path={folder / TINY[overrides[0]]}"]
    found = run_ranks(given, folder)
    return {case: _agreement(found[case.name], found[case.reference]) for case in cases}


def _agreement(ours: tuple[list[StepResult], str], reference: tuple[list[StepResult], str]) -> Agreement:
    error = ours[1] or reference[1]
    if error:
        return Agreement(torch.inf, torch.inf, torch.inf, error)
    pairs = list(zip(ours[0], reference[0], strict=True))

    def apart(one: float, other: float) -> float:
        return abs(one - other) / abs(other)

    return Agreement(
        log_probs=max(
            float((getattr(one, name) - getattr(other, name)).abs().max())
            for one, other in pairs
            for name in ("log_probs", "ref_log_probs")
        ),
        loss=max(apart(one.loss, other.loss) for one, other in pairs),
        grad_norm=max(apart(one.grad_norm, other.grad_norm) for one, other in pairs),
    )


def _steps(name: str, overrides: list[str]) -> tuple[list[StepResult], str]:
    from hydra import compose, initialize_config_module
    from verl.utils import hf_processor

    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    try:
        with initialize_config_module("recipe.critic_r1.config", version_base=None):
            config = compose(name, overrides)
        processor = hf_processor(config.actor_rollout_ref.model.path)
        steps = TrainingSteps(config)
        rollouts = [rollout(processor, shape, len(SHAPES) * rank + i) for i, shape in enumerate(SHAPES)]
        return [steps.step(rollouts, MINI_BATCH) for _ in range(2)], ""
    except Exception:  # one case must not end the others
        return [], traceback.format_exc()


def main(cases: Path, result: Path) -> None:
    """One rank of `run_ranks`."""
    import verl  # noqa: F401  (loads the plug-in)

    torch.set_num_threads(1)
    found = {name: _steps(case[0], case[1:]) for name, case in json.loads(cases.read_text()).items()}
    if os.environ["RANK"] == "0":
        result.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
