"""A dress rehearsal: a run's own configuration for three steps, on random weights and data at its limits.

What differs from the run is listed in docs/cluster.md. Everything is written below one temporary folder beside the
run's folder, on the same file system, and removed however the rehearsal ends.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig
from rich.console import Console

from recipe.critic_r1.launch import processes
from recipe.critic_r1.preflight.memory_estimate import GIB
from recipe.critic_r1.preflight.model_shape import read_config
from recipe.critic_r1.preflight.ray_cluster import address_of
from recipe.critic_r1.rehearsal.architectures import architecture, shipped
from recipe.critic_r1.rehearsal.limit_tasks import Limits, write_limit_tasks
from recipe.critic_r1.train import compose_config
from recipe.critic_r1.training.checkpoints import TRACKER
from recipe.critic_r1.training.run_log import METRICS, read_lines

STEPS = 3

TINY = ("+device=cpu", "+sizes=tiny")
"""What ``--tiny`` adds to a configuration."""

SECONDS_BETWEEN_LOOKS = 2.0
"""At the memory of GPUs and processes."""


class RehearsalError(RuntimeError):
    """The rehearsal did not come to its end; the message says why and what helps."""


@dataclass(frozen=True)
class RehearsalMeasures:
    """What a rehearsal found."""

    model: dict[str, Any]
    """Its ``config.json``."""
    steps: list[dict[str, float]]
    """The metrics of each step, under verl's names."""
    limits: Limits
    seconds: float
    """From the first process to the last, making of model and data apart."""
    device_gib: float | None
    """Most memory in use on one GPU of this machine, all processes together; None without a GPU here."""
    device_total_gib: float | None
    host_gib: float
    """Most memory that the run's processes held on this machine; on a running cluster, that was in use on it."""
    host_total_gib: float
    checkpoint_bytes: int
    checkpoint_seconds: float


class _DeviceMemory:
    """Memory in use on the GPUs of this machine, by nvidia-smi."""

    def __init__(self) -> None:
        self.peak: float | None = None
        self.total: float | None = None
        self._program = shutil.which("nvidia-smi")
        self._next = 0.0

    def look(self) -> None:
        if self._program is None or time.monotonic() < self._next:
            return
        command = [self._program, "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            rows = [[float(cell) / 1024 for cell in line.split(",")] for line in done.stdout.splitlines() if line]
            self.peak = max([self.peak or 0.0, *(used for used, _ in rows)])
            self.total = min(total for _, total in rows)
        except (OSError, subprocess.SubprocessError, ValueError):
            self._program = None
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS


def compose(config_name: str, overrides: Sequence[str], *, tiny: bool) -> tuple[DictConfig, list[str]]:
    """The run's configuration, and the overrides that make it.

    Raises:
        ConfigurationError: it does not compose.
    """
    # A value of the user's is the last word, also against --tiny.
    given = [*(TINY if tiny else ()), *overrides]
    return compose_config(config_name, given), given


def model_of(config: DictConfig, *, tiny: bool) -> dict[str, Any]:
    """The ``config.json`` of the model to make.

    Raises:
        RehearsalError: the sizes of the run's model are not known here.
    """
    path = str(config.actor_rollout_ref.model.path)
    found = read_config(path)
    if found is None:
        raise RehearsalError(
            f"the sizes of {path} are not known here: give a local folder with its config.json "
            "(actor_rollout_ref.model.path=...)"
        )
    if not tiny:
        return found
    name = f"tiny_{found.get('model_type')}"
    if name not in shipped():
        raise RehearsalError(f"there is no tiny model of the family of {path} ({found.get('model_type')})")
    return architecture(name)


def rehearse(
    config_name: str, overrides: Sequence[str], console: Console, *, tiny: bool = False, log: Path | None = None
) -> tuple[DictConfig, RehearsalMeasures]:
    """Run the rehearsal; returns the run's configuration, and what was measured.

    Args:
        config_name: a file of ``recipe/critic_r1/config``.
        overrides: Hydra overrides, as for `train`.
        console: for progress.
        tiny: a tiny model and tiny sizes, on the CPU.
        log: where the output of the training goes; None: it is removed with everything else.

    Raises:
        ConfigurationError: the configuration does not compose.
        RehearsalError: the model cannot be made, or the training failed.
    """
    config, given = compose(config_name, overrides, tiny=tiny)
    if (mode := config.trainer.v1.trainer_mode) != "critic_sync":
        raise RehearsalError(f"trainer mode {mode} writes no metrics that could be read: rehearse with critic_sync")
    sizes = model_of(config, tiny=tiny)
    parent = Path(config.critic_r1.run_dir).expanduser().absolute().parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=parent))
    try:
        return config, _rehearse(config_name, config, given, sizes, folder, log or folder / "rehearsal.log", console)
    finally:
        _remove(folder, made)


def _remove(folder: Path, made: Sequence[Path]) -> None:
    """Remove the folder, and those above it that were made for it; a second signal does not stop this."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            try:
                parent.rmdir()
            except OSError:  # something else was written there
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rehearse(
    config_name: str,
    config: DictConfig,
    given: Sequence[str],
    sizes: dict[str, Any],
    folder: Path,
    log: Path,
    console: Console,
) -> RehearsalMeasures:
    from recipe.critic_r1.demo.console import stage_line
    from recipe.critic_r1.rehearsal.random_model import make_model

    try:
        with stage_line("Model", console) as line:
            line.update(note="random weights")
            model = make_model(sizes, folder / "model")
        with stage_line("Data", console) as line:
            line.update(note="images and prompts at the limits")
            rows = STEPS * config.data.train_batch_size
            limits = write_limit_tasks(model, config, rows, folder / "data")
    except ValueError as error:
        raise RehearsalError(str(error)) from error
    run = folder / "run"
    fixed = [
        f"critic_r1.run_dir={run}",
        f"trainer.default_local_dir={run / 'checkpoints'}",
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files=[{','.join(map(str, sorted((folder / 'data').glob('train-*.parquet'))))}]",
        f"data.val_files={folder / 'data' / 'val-00000.parquet'}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.total_epochs=1",
        f"trainer.save_freq={STEPS}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        "trainer.resume_mode=disable",
        "trainer.logger=[console]",
        "critic_r1.recovery.max_restarts=0",
        # Every response has its full length.
        "actor_rollout_ref.rollout.ignore_eos=true",
        # Shown, not enforced: a random model's probabilities are all small.
        "critic_r1.rollout_agreement.min_pearson=-1",
    ]
    command = [sys.executable, "-m", "recipe.critic_r1.train", "--config-name", config_name, *given, *fixed]
    device, memory = _DeviceMemory(), processes.PeakMemory(every_seconds=SECONDS_BETWEEN_LOOKS)
    metrics = run / "train" / METRICS
    on_cluster, most_used = address_of(config) is not None, 0
    with stage_line("Training", console) as line:

        def look() -> None:
            nonlocal most_used
            device.look()
            most_used = max(most_used, psutil.virtual_memory().used)
            done = sum(1 for _ in read_lines(metrics)) if metrics.exists() else 0
            line.update(done, STEPS, "three steps and a checkpoint")

        begun = log.stat().st_size if log.exists() else 0
        status = processes.follow(command, log, on_line=lambda _: None, on_tick=look, memory=memory)
        seconds = line.seconds
    if status != 0:
        with log.open("rb") as output:
            output.seek(begun)
            raise RehearsalError(failure(output.read().decode("utf-8", "replace"), status))
    checkpoints = run / "checkpoints"
    saved = checkpoints / f"global_step_{STEPS}"
    return RehearsalMeasures(
        model=sizes,
        steps=[record["data"] for record in read_lines(metrics)],
        limits=limits,
        seconds=seconds,
        device_gib=device.peak,
        device_total_gib=device.total,
        host_gib=(most_used if on_cluster else memory.peak) / GIB,
        host_total_gib=psutil.virtual_memory().total / GIB,
        checkpoint_bytes=sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()),
        # verl writes the tracker last, and the trainer a step's metrics right before its checkpoint.
        checkpoint_seconds=(checkpoints / TRACKER).stat().st_mtime - metrics.stat().st_mtime,
    )


OUT_OF_MEMORY = (
    ("update_actor", "tuning=fast, or actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2"),
    (
        "compute_log_prob",
        "actor_rollout_ref.actor.entropy_from_logits_with_chunking=true, or a smaller "
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    ),
    ("compute_ref_log_prob", "a smaller actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"),
    ("wake_up", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5"),
    ("memory usage threshold", "more host memory, a smaller data.train_batch_size, or lower pixel limits"),
)
"""What the log names where memory ran out, and what helps."""

_LAST_LINES = 12


def failure(log: str, status: int) -> str:
    """Why a training failed and what to change, from what it printed.

    Args:
        log: its output.
        status: its exit status.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    ours = [place for place, line in enumerate(lines) if line.startswith("critic-r1: ")]
    shown = "\n".join(lines[ours[-1] :][:_LAST_LINES] if ours else lines[-_LAST_LINES:])
    told = f"the training ended with exit status {status}\n{shown}"
    if "out of memory" in log or "OutOfMemoryError" in log or "memory usage threshold" in log:
        end = log[log.rfind("Traceback") :] if "Traceback" in log else log
        remedies = [remedy for place, remedy in OUT_OF_MEMORY if place in end or place in log]
        told += f"\nMemory ran out. Try: {remedies[0] if remedies else 'tuning=fast, or more GPUs'}."
    return told
