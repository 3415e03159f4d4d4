"""Both rollout paths with random numbers that do not depend on what else is in flight.

vLLM's engine has one generator for all requests, so two runs that send the same requests a little earlier or later draw
other responses. Here each request has a seed of its own, made of its prompt and of how often that prompt was asked
before: two runs then train on the same responses, and what is left between them is rounding.

A measuring device, named in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

import zlib
from collections import Counter
from typing import Any

import numpy as np
import ray

from recipe.critic_r1.rollout.manager import SHARED, CriticAgentLoopManager, SharedPromptWorker, _StockWorker


class SeededClient:
    """A client of the rollout engine that gives each request its seed."""

    def __init__(self, client: Any) -> None:
        self._client, self._asked = client, Counter[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _seeded(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> dict[str, Any]:
        prompt = zlib.crc32(np.asarray(prompt_ids, dtype=np.int64).tobytes())
        seed = prompt + self._asked[prompt]
        self._asked[prompt] += 1
        return {**sampling_params, "seed": seed}

    async def generate(self, *, prompt_ids: list[int], sampling_params: dict[str, Any], **rest: Any) -> Any:
        seeded = self._seeded(prompt_ids, sampling_params)
        return await self._client.generate(prompt_ids=prompt_ids, sampling_params=seeded, **rest)

    async def generate_group(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: list[dict[str, Any]], **rest: Any
    ) -> Any:
        seeded = [self._seeded(prompt_ids, each) for each in sampling_params]
        return await self._client.generate_group(request_id, prompt_ids=prompt_ids, sampling_params=seeded, **rest)


class SeededStockWorker(_StockWorker):
    """verl's worker, seeded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client = SeededClient(self.llm_client)


class SeededSharedWorker(SharedPromptWorker):
    """Ours, seeded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client = SeededClient(self.llm_client)


class SeededLoops(CriticAgentLoopManager):
    """The recipe's manager with seeded workers on either path."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        shared = config.critic_r1.image_path == SHARED
        self.agent_loop_workers_class = ray.remote(SeededSharedWorker if shared else SeededStockWorker)
