"""verl's vLLM server with one more method: all rollouts of a prompt in one call.

It comes in by verl's own door, the registry of rollout replicas (`recipe.critic_r1.training.trainer`).
"""

import asyncio
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.sampling_params import RequestOutputKind

from recipe.critic_r1 import compat
from recipe.critic_r1.compat.pinned_sources import REMEDY, SERVER_FUNCTIONS
from recipe.critic_r1.rollout.client import timed


class GroupServer(vLLMHttpServer):  # type: ignore[misc]
    """verl's server; `servers.OneRequestPerPrompt` calls it."""

    async def generate_group(
        self, request_ids: list[str], prompt_ids: list[int], sampling_params: list[dict[str, Any]], **request: Any
    ) -> list[tuple[TokenOutput, float] | BaseException]:
        """`generate` for each request id with its sampling parameters, and the seconds that it took.

        An error takes the place of its rollout only.
        """
        # Nobody sees a token before the last one is there, and each would cost a turn of the event loop.
        whole = {"output_kind": RequestOutputKind.FINAL_ONLY}
        outputs = [
            timed(self.generate(prompt_ids, {**sampling, **whole}, request_id, **request))
            for request_id, sampling in zip(request_ids, sampling_params, strict=True)
        ]
        return await asyncio.gather(*outputs, return_exceptions=True)


class GroupReplica(vLLMReplica):  # type: ignore[misc]
    """verl's replica of `GroupServer`s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compat.check_sources(SERVER_FUNCTIONS, REMEDY)
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
