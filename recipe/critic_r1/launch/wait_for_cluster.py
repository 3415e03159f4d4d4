"""Before a restart on a Ray cluster: wait until the machines are there again.

A machine that was lost takes minutes to come back or to be replaced, and the processes of the run that ended hold their
GPUs for a moment longer. verl looks once, and refuses to start with fewer GPUs than it was asked for.
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
    """Return when the cluster has what ``config`` asks for, free, or after ``recovery.machines_seconds``.

    A run that starts Ray by itself waits for nothing. What is missing at the end is reported by preflight.

    Args:
        look: Given an address and the GPUs of a machine, how many machines have them, and the free GPUs of all.
    """
    from recipe.critic_r1.preflight.ray_cluster import address_of

    address = address_of(config)
    if address is None:
        return
    machines, each = config.trainer.nnodes, config.trainer.n_gpus_per_node
    left, told = float(config.critic_r1.recovery.machines_seconds), False
    while True:
        found, free = (look or _look)(address, each)
        if found >= machines and free >= machines * each:
            return
        if left <= 0:
            return
        if not told:
            told = True
            print(
                f"critic-r1: waiting for {machines} machine(s) with {each} free GPU(s); {found} have them, "
                f"{free:g} of {machines * each} GPU(s) are free",
                file=sys.stderr,
                flush=True,
            )
        wait(LOOK_EVERY)
        left -= LOOK_EVERY


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
