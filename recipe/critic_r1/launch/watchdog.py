"""Stop waiting for rollouts when an actor that produces them has died.

verl's synchronous trainer polls TransferQueue for the rollouts of a step, and polls forever when an agent-loop worker,
a reward worker or a rollout server is killed. The watchdog checks every few seconds that these actors are alive.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError


class WorkerDied(RuntimeError):
    """An actor that the run needs has died."""


class ActorWatchdog:
    """Keeps one pending call to each actor: a busy actor leaves it pending, a dead one makes it fail."""

    def __init__(self, actors: Mapping[str, Sequence[Any]], *, every_seconds: float = 5.0) -> None:
        self._actors = [(f"{role} {i}", actor) for role, group in actors.items() for i, actor in enumerate(group)]
        self._pending: dict[str, Any] = {}
        self._every = every_seconds
        self._next = 0.0

    def look(self) -> None:
        """Check, at most once in ``every_seconds``; raises `WorkerDied` for the first dead actor."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        for name, actor in self._actors:
            if name not in self._pending:
                self._pending[name] = actor.__ray_ready__.remote()
            done, _ = ray.wait([self._pending[name]], timeout=0)
            if not done:
                continue
            try:
                ray.get(self._pending.pop(name))
            except RayActorError as error:
                raise WorkerDied(f"{name} died during the run; its rollouts will never finish ({error})") from error
