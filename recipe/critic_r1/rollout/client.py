"""All rollouts of a prompt as one request to one rollout server.

verl asks its load balancer for a server for each rollout, and so spreads the rollouts of a prompt over all servers:
each of them then puts the prompt's image through its processor and its vision tower, and prefills the prompt, anew.
With one server for a prompt its caches of images and prefixes do what they are for; prompts are spread as rollouts
were, to the server with the fewest under way. And of the 3 n calls between actors that n rollouts take 3 are left.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

TimedOutput = tuple[TokenOutput, float] | BaseException
"""The output of a rollout and the seconds that it took, or what went wrong with it."""


class OneRequestPerPrompt(LLMServerClient):  # type: ignore[misc]
    """verl's client, which can also ask for several rollouts of a prompt at once."""

    @classmethod
    def instead_of(cls, client: Any) -> Any:
        """One for verl's plain client; other clients, which may leave a server in the middle, stay as they are."""
        return cls(client.config, client._load_balancer) if type(client) is LLMServerClient else client

    async def generate_group(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: Sequence[dict[str, Any]], **request: Any
    ) -> list[TimedOutput]:
        """A rollout for each of the sampling parameters, in their order.

        Args:
            request_id: for the load balancer.
            prompt_ids: the prompt's token ids, (P,).
            request: what else verl's rollout server takes, alike for all.
        """
        server_id, server = await self._acquire_server(request_id, prompt_ids=prompt_ids, **request)
        try:
            if not hasattr(server, "generate_group"):  # no `group_server.GroupServer`: another engine
                return await one_by_one(self, request_id, sampling_params, prompt_ids=prompt_ids, **request)
            given = {name: value for name, value in request.items() if value}
            ids = [self._vllm_request_id(request_id) for _ in sampling_params]
            outputs: list[TimedOutput] = await server.generate_group.remote(
                ids, prompt_ids, list(sampling_params), **given
            )
        finally:
            self._release_server(server_id, request_id=request_id)
        for found in outputs:
            if not isinstance(found, BaseException):
                extra = found[0].extra_fields
                extra |= {f"{end}_global_steps": extra.get("global_steps") for end in ("min", "max")}
        return outputs


async def rolled_out(
    client: Any, request_id: str, n: int, sampling: dict[str, Any], **request: Any
) -> list[TimedOutput]:
    """n rollouts of a prompt by any client of verl's."""
    each = [dict(sampling) for _ in range(n)]
    if hasattr(client, "generate_group"):
        found: list[TimedOutput] = await client.generate_group(request_id, sampling_params=each, **request)
        return found
    return await one_by_one(client, request_id, each, **request)


async def one_by_one(client: Any, request_id: str, each: Sequence[dict[str, Any]], **request: Any) -> list[TimedOutput]:
    """A request for each of the sampling parameters."""
    outputs = [timed(client.generate(request_id=request_id, sampling_params=s, **request)) for s in each]
    return await asyncio.gather(*outputs, return_exceptions=True)


async def timed(output: Awaitable[TokenOutput]) -> tuple[TokenOutput, float]:
    """What is waited for, and how many seconds it took."""
    started = time.monotonic()
    return await output, time.monotonic() - started
