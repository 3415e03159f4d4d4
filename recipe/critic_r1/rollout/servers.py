"""All rollouts of a prompt on one rollout server, for one question to the load balancer.

verl asks its load balancer for a server for each rollout, and so spreads the rollouts of a prompt over all servers:
each of them then puts the prompt's picture through its processor and its vision tower, and prefills the prompt, anew.
With one server for a prompt its caches of pictures and prefixes do what they are for. Prompts are spread as rollouts
were, to the server with the fewest under way; and of the three calls between actors that a rollout takes two are saved.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient


@dataclass
class _Lent:
    """A server, while rollouts of a prompt are on it."""

    server: "asyncio.Task[tuple[str, Any]]"
    rollouts: int = 0


class OneServerPerPrompt(LLMServerClient):
    """verl's client; requests that are under way with the same ``request_id`` share what the load balancer gave."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lent: dict[str, _Lent] = {}

    @classmethod
    def instead_of(cls, client: Any) -> Any:
        """One for verl's plain client; other clients, which may leave a server in the middle, stay as they are."""
        return cls(client.config, client._load_balancer) if type(client) is LLMServerClient else client

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        lent = self._lent.get(request_id)
        if lent is None:
            lent = self._lent[request_id] = _Lent(asyncio.ensure_future(super()._acquire_server(request_id, **extra)))
        lent.rollouts += 1
        try:
            # One rollout that is cancelled must not take the answer from the others.
            return await asyncio.shield(lent.server)
        except BaseException:
            self._returned(request_id)
            raise

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        assert request_id is not None
        if self._returned(request_id):
            super()._release_server(server_id, request_id)

    def _returned(self, request_id: str) -> bool:
        """Whether that was the last rollout."""
        lent = self._lent[request_id]
        lent.rollouts -= 1
        if not lent.rollouts:
            del self._lent[request_id]
        return not lent.rollouts
