"""The one entry point for training, demo and cluster alike.

    python -m recipe.critic_r1.train --config-name r1 trainer.nnodes=4 data.train_files=...

It composes the configuration before it imports verl, because the configuration says which platform verl is to run on
(`ray_kwargs.ray_init.runtime_env.env_vars` of cluster/cpu.yaml), then checks what can be checked, and hands over to
verl's `run_ppo`.
"""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from data_prep.files import FolderInUseError, folder_lock, write_text
from data_prep.terminal import printable
from recipe.critic_r1.launch import staged, supervisor, wait_for_cluster
from recipe.critic_r1.redaction import redacted_config
from recipe.critic_r1.training import checkpoints

TENSORBOARD = "TENSORBOARD_DIR"
"""verl's TensorBoard writer takes its folder from this variable only."""


class ConfigurationError(ValueError):
    """The configuration does not compose; the message is Hydra's."""


def compose_config(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """A configuration of ``recipe/critic_r1/config`` with Hydra overrides applied.

    Raises:
        ConfigurationError: no such configuration, or an override that does not fit it.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("recipe.critic_r1.config", version_base=None):
            config: DictConfig = compose(config_name, overrides=list(overrides))
            return config
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{config_name} does not compose: {error}") from error


def prepare_config(config: DictConfig) -> None:
    """Make the paths of ``config`` absolute and set this process's environment as the workers' will be."""
    run_dir = Path(config.critic_r1.run_dir).expanduser().absolute()
    with open_dict(config):
        config.critic_r1.run_dir = str(run_dir)
        config.trainer.default_local_dir = os.path.abspath(os.path.expanduser(config.trainer.default_local_dir))
        if config.critic_r1.image_path == "stock":
            config.data.custom_cls.path = None  # verl's own data set too
    key = "ray_kwargs.ray_init.runtime_env.env_vars"
    for name, value in (OmegaConf.select(config, key) or {}).items():
        os.environ.setdefault(name, str(value))
    os.environ.setdefault(TENSORBOARD, str(run_dir / "train" / "tensorboard"))
    # On a running cluster the actors do not inherit our environment. Ray refuses a variable that the job already has.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if TENSORBOARD not in (job.get("runtime_env", {}).get("env_vars") or {}):
        OmegaConf.update(config, f"{key}.{TENSORBOARD}", os.environ[TENSORBOARD], force_add=True)


def run(config: DictConfig) -> None:
    """Check ``config``, then train. Raises `preflight.PreflightError` before Ray starts when a check fails."""
    from recipe.critic_r1 import preflight

    prepare_config(config)
    if (step := checkpoints.repair(Path(config.trainer.default_local_dir))) is not None:
        print(f"critic-r1: a kill left {checkpoints.TRACKER} empty; it names step {step} again", file=sys.stderr)
    for finding in preflight.check(config):
        if finding.status == "warn":
            print(f"critic-r1: {printable(finding)}", file=sys.stderr)
    saved = Path(config.critic_r1.run_dir) / "train" / "config.yaml"
    write_text(saved, yaml.safe_dump(redacted_config(config), sort_keys=False, allow_unicode=True))

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


def run_supervised(config: DictConfig, command_line: Sequence[str]) -> int:
    """Train in a child process that is started again when a process of the run dies; returns its exit status."""
    prepare_config(config)
    folder = Path(config.trainer.default_local_dir)

    def last_step() -> int | None:
        checkpoints.repair(folder)
        return checkpoints.last_step(folder)

    supervisor.interrupt_on_sigterm()
    try:
        return supervisor.supervise(
            [sys.executable, "-m", "recipe.critic_r1.train", *command_line],
            log=Path(config.critic_r1.run_dir) / "train" / "console.log",
            last_step=last_step,
            max_restarts=config.critic_r1.recovery.max_restarts,
            backoff_seconds=config.critic_r1.recovery.backoff_seconds,
        )
    except KeyboardInterrupt:
        print("critic-r1: ended on request; nothing was left running", file=sys.stderr)
        return 128 + signal.SIGINT


def train(config_name: str, overrides: Sequence[str]) -> int:
    """Compose, check and train; returns the exit status: 0, 2 when nothing was started, 75 when a restart may help."""
    from recipe.critic_r1.preflight import PreflightError

    restart = os.environ.get(supervisor.SUPERVISED)
    try:
        config = compose_config(config_name, overrides)
        if staged.stages_of(config):
            return staged.train_in_stages(config, config_name, overrides)
        logs = Path(config.critic_r1.run_dir).expanduser().absolute() / "train"
        # The supervising process holds the folder for its children.
        with folder_lock(logs, "critic-r1 train") if restart is None else nullcontext():
            if config.critic_r1.recovery.max_restarts > 0 and restart is None:
                return run_supervised(config, ["--config-name", config_name, *overrides])
            if int(restart or 0) > 0:
                wait_for_cluster.for_machines(config)
            return _run_and_explain(config)
    except (
        ConfigurationError, staged.StageError, PreflightError, checkpoints.CheckpointError, FolderInUseError, OSError,
    ) as error:  # fmt: skip
        print(f"critic-r1: {printable(error)}", file=sys.stderr)
        return 2


def _run_and_explain(config: DictConfig) -> int:
    from recipe.critic_r1.preflight import PreflightError

    try:
        run(config)
    except (PreflightError, checkpoints.CheckpointError):
        raise
    except Exception as error:
        traceback.print_exc()
        print(f"critic-r1: {printable(explain(error, Path(config.trainer.default_local_dir)))}", file=sys.stderr)
        return supervisor.TRANSIENT if supervisor.is_transient(error) else 1
    return 0


def explain(error: BaseException, folder: Path) -> str:
    """What stopped a run, in a sentence, and how to resume it; ``folder`` is that of its checkpoints."""
    from ray.exceptions import RayActorError

    cause = supervisor.cause_of(error)
    if isinstance(cause, RayActorError):
        reason = f"a process of the run died ({_first_line(cause)})"
    else:
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
    try:
        step = checkpoints.last_step(folder)
    except checkpoints.CheckpointError as unreadable:
        return f"training stopped: {reason}\n{unreadable}"
    if step is not None:
        further = f"The same command resumes at step {step + 1}, after the last checkpoint."
    else:
        further = "There is no checkpoint yet: the same command starts over."
    return f"training stopped: {reason}\n{further}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def main(command_line: Sequence[str] | None = None) -> int:
    """Parse a command line, this process's own when None is given, and train."""
    parser = argparse.ArgumentParser(
        "python -m recipe.critic_r1.train", description="Train on one machine or a cluster."
    )
    parser.add_argument("--config-name", "-cn", default="critic_grpo", help="A yaml file of recipe/critic_r1/config.")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Any key of the configuration, as in Hydra.")
    given = parser.parse_intermixed_args(command_line)
    return train(given.config_name, given.overrides)


if __name__ == "__main__":
    sys.exit(main())
