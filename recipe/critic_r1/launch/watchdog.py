"""Waiting for rollouts must end when the process that makes them is gone.

verl's synchronous trainer waits for a step's rollouts by polling TransferQueue. When an agent-loop worker, a reward
worker or a rollout server is killed, nobody will ever finish them, and the trainer polls forever. The watchdog asks Ray
whether the actors still live each time the trainer has polled for a while.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError


class WorkerDied(RuntimeError):
    """An actor that the run cannot go on without is gone."""


class ActorWatchdog:
    """Raises `WorkerDied` when one of the named actors is dead.

    A question is one pending call to each actor: Ray answers it with an error once the actor is dead, and a busy actor
    just leaves it pending.
    """

    def __init__(self, actors: Mapping[str, Sequence[Any]], *, every_seconds: float = 5.0) -> None:
        self._actors = [(f"{role} {i}", actor) for role, group in actors.items() for i, actor in enumerate(group)]
        self._pending: dict[str, Any] = {}
        self._every = every_seconds
        self._next = 0.0

    def look(self) -> None:
        """Ask, at most once in ``every_seconds``; raise `WorkerDied` for the first actor that is dead."""
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
