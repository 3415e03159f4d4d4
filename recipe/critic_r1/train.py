"""The one entry point for training, demo and cluster alike.

    python -m recipe.critic_r1.train --config-name r1 trainer.nnodes=4 data.train_files=...

It composes the configuration before it imports verl, because the configuration says which platform verl is to run on
(`ray_kwargs.ray_init.runtime_env.env_vars` of cluster/cpu.yaml), then checks what can be checked, and hands over to
verl's `run_ppo`.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.critic_r1.launch import supervisor, wait_for_cluster
from recipe.critic_r1.training import checkpoints


def prepare_config(config: DictConfig) -> None:
    """Make the paths of ``config`` absolute and set this process's environment as the workers' will be."""
    run_dir = Path(config.critic_r1.run_dir).expanduser().absolute()
    with open_dict(config):
        config.critic_r1.run_dir = str(run_dir)
        config.trainer.default_local_dir = os.path.abspath(os.path.expanduser(config.trainer.default_local_dir))
        if config.critic_r1.image_path == "stock":
            config.data.custom_cls.path = None  # verl's own data set too
    env_vars = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars") or {}
    for name, value in env_vars.items():
        os.environ.setdefault(name, str(value))
    # verl's TensorBoard writer knows no other way to be told its folder.
    os.environ.setdefault("TENSORBOARD_DIR", str(run_dir / "train" / "tensorboard"))


def run(config: DictConfig) -> None:
    """Check ``config``, then train. Raises `preflight.PreflightError` before Ray starts when a check fails."""
    from recipe.critic_r1 import preflight

    prepare_config(config)
    for finding in preflight.check(config):
        if finding.status == "warn":
            print(f"critic-r1: {finding}", file=sys.stderr)
    if (step := checkpoints.repair(Path(config.trainer.default_local_dir))) is not None:
        print(f"critic-r1: a kill left {checkpoints.TRACKER} empty; it names step {step} again", file=sys.stderr)
    saved = Path(config.critic_r1.run_dir) / "train" / "config.yaml"
    saved.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, saved, resolve=True)

    from recipe.critic_r1 import plugin

    plugin.activate()

    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from recipe.critic_r1.training.task_runner import CriticTaskRunner

    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=CriticTaskRunner)


def run_supervised(config: DictConfig) -> int:
    """Train in a child process that is started again when a process of the run dies; returns its exit status."""
    prepare_config(config)
    folder = Path(config.trainer.default_local_dir)

    def last_step() -> int | None:
        checkpoints.repair(folder)
        return checkpoints.last_step(folder)

    supervisor.interrupt_on_sigterm()
    try:
        return supervisor.supervise(
            [sys.executable, "-m", "recipe.critic_r1.train", *sys.argv[1:]],
            log=Path(config.critic_r1.run_dir) / "train" / "console.log",
            last_step=last_step,
            max_restarts=config.critic_r1.recovery.max_restarts,
            backoff_seconds=config.critic_r1.recovery.backoff_seconds,
        )
    except KeyboardInterrupt:
        print("critic-r1: ended on request; nothing was left running", file=sys.stderr)
        return 128 + signal.SIGINT


@hydra.main(config_path="config", config_name="critic_grpo", version_base=None)
def main(config: DictConfig) -> None:
    from recipe.critic_r1.preflight import PreflightError

    restart = os.environ.get(supervisor.SUPERVISED)
    if config.critic_r1.recovery.max_restarts > 0 and restart is None:
        sys.exit(run_supervised(config))
    try:
        if int(restart or 0) > 0:
            wait_for_cluster.for_machines(config)
        run(config)
    except (PreflightError, checkpoints.TrackerError) as error:
        print(f"critic-r1: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        print(f"critic-r1: {explain(error, Path(config.trainer.default_local_dir))}", file=sys.stderr)
        sys.exit(supervisor.TRANSIENT if supervisor.is_transient(error) else 1)


def explain(error: BaseException, folder: Path) -> str:
    """What stopped a run, in a sentence, and how to go on; ``folder`` is that of its checkpoints."""
    from ray.exceptions import RayActorError

    cause = supervisor.cause_of(error)
    if isinstance(cause, RayActorError):
        reason = f"a process of the run died ({_first_line(cause)})"
    else:
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
    try:
        step = checkpoints.last_step(folder)
    except checkpoints.TrackerError as unreadable:
        return f"training stopped: {reason}\n{unreadable}"
    if step is not None:
        further = f"The same command goes on at step {step + 1}, after the last checkpoint."
    else:
        further = "There is no checkpoint yet: the same command starts over."
    return f"training stopped: {reason}\n{further}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


if __name__ == "__main__":
    main()
