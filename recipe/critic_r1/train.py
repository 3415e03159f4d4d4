"""The one entry point for training, demo and cluster alike.

    python -m recipe.critic_r1.train --config-name r1 trainer.nnodes=4 data.train_files=...

It composes the configuration before it imports verl, because the configuration says which platform verl is to run on
(`ray_kwargs.ray_init.runtime_env.env_vars` of cluster/cpu.yaml), then checks what can be checked, and hands over to
verl's `run_ppo`.
"""

import os
import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict


def prepare_config(config: DictConfig) -> None:
    """Make the paths of ``config`` absolute and set this process's environment as the workers' will be."""
    run_dir = Path(config.critic_r1.run_dir).expanduser().absolute()
    with open_dict(config):
        config.critic_r1.run_dir = str(run_dir)
        config.trainer.default_local_dir = os.path.abspath(os.path.expanduser(config.trainer.default_local_dir))
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
    saved = Path(config.critic_r1.run_dir) / "train" / "config.yaml"
    saved.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, saved, resolve=True)

    from recipe.critic_r1 import plugin

    plugin.activate()

    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from recipe.critic_r1.task_runner import CriticTaskRunner

    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=CriticTaskRunner)


@hydra.main(config_path="config", config_name="critic_grpo", version_base=None)
def main(config: DictConfig) -> None:
    from recipe.critic_r1.preflight import PreflightError

    try:
        run(config)
    except PreflightError as error:
        print(f"critic-r1: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        print(f"critic-r1: {explain(error, Path(config.critic_r1.run_dir))}", file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException, run_dir: Path) -> str:
    """What stopped a run, in a sentence, and how to go on."""
    from ray.exceptions import RayActorError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RayActorError):
        reason = f"a process of the run died ({_first_line(cause)})"
    else:
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
    tracker = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    if tracker.exists():
        further = f"The same command goes on at step {int(tracker.read_text()) + 1}, after the last checkpoint."
    else:
        further = "There is no checkpoint yet: the same command starts over."
    return f"training stopped: {reason}\n{further}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


if __name__ == "__main__":
    main()
