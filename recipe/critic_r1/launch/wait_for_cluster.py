"""Wait for the machines of a Ray cluster before a restart.

A lost machine takes minutes to return or be replaced, and the processes of the previous start release their GPUs with a
delay. verl checks once, and fails when GPUs are missing.
"""

import sys
import time
from collections.abc import Callable

from omegaconf import DictConfig

LOOK_EVERY = 5.0
"""Seconds."""


def for_machines(
    config: DictConfig,
    *,
    look: Callable[[str, int], tuple[int, float]] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the GPUs that ``config`` asks for are free, or after ``recovery.machines_seconds``.

    Returns at once for a run that starts Ray itself. What is still missing is reported by preflight.

    Args:
        look: (address, GPUs of a machine) -> (number of machines with as many GPUs, free GPUs of the cluster).
    """
    from recipe.critic_r1.preflight.ray_cluster import address_of, reward_model_gpus

    address = address_of(config)
    if address is None:
        return
    machines, each = config.trainer.nnodes, config.trainer.n_gpus_per_node
    needed = machines * each + reward_model_gpus(config)
    allowed, waited = float(config.critic_r1.recovery.machines_seconds), 0.0
    while True:
        found, free = (look or _look)(address, each)
        if (found >= machines and free >= needed) or waited >= allowed:
            return
        if not waited:
            print(
                f"critic-r1: waiting for {machines} machine(s) with {each} free GPU(s); {found} have them, "
                f"{free:g} of {needed} GPU(s) are free",
                file=sys.stderr,
                flush=True,
            )
        wait(LOOK_EVERY)
        waited += LOOK_EVERY


def _look(address: str, each: int) -> tuple[int, float]:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError):
        return 0, 0.0
    try:
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0.0) >= each]
        return len(alive), float(ray.available_resources().get("GPU", 0.0))
    finally:
        ray.shutdown()
