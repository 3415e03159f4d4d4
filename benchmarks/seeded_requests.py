"""Both rollout paths with random numbers that do not depend on what else is in flight.

vLLM's engine has one generator for all requests, so two runs that send the same requests a little earlier or later draw
other responses. Here each request has a seed of its own, made of its prompt with its images and of how often that was
asked before: two runs then train on the same responses, and what is left between them is rounding.

A measuring device, named in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

import zlib
from collections import Counter
from typing import Any

import numpy as np
import ray

from recipe.critic_r1.rollout.agent_loop import SHARED, CriticAgentLoopManager, SharedPromptWorker, _StockWorker


class SeededClient:
    """A client of the rollout engine that gives each request its seed."""

    def __init__(self, client: Any) -> None:
        self._client, self._asked = client, Counter[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def _seeded(self, each: list[dict[str, Any]], prompt_ids: list[int], image_data: Any) -> list[dict[str, Any]]:
        images = await image_data if isinstance(image_data, ray.ObjectRef) else image_data
        prompt = zlib.crc32(np.asarray(prompt_ids, dtype=np.int64).tobytes())
        for image in images or []:  # many prompts differ in their images only
            prompt = zlib.crc32(image.tobytes(), prompt)
        first = self._asked[prompt]
        self._asked[prompt] += len(each)
        return [{**sampling, "seed": prompt + first + i} for i, sampling in enumerate(each)]

    async def generate(
        self, *, prompt_ids: list[int], sampling_params: dict[str, Any], image_data: Any = None, **rest: Any
    ) -> Any:
        (seeded,) = await self._seeded([sampling_params], prompt_ids, image_data)
        return await self._client.generate(prompt_ids=prompt_ids, sampling_params=seeded, image_data=image_data, **rest)

    async def generate_group(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: list[dict[str, Any]],
        image_data: Any = None,
        **rest: Any,
    ) -> Any:
        seeded = await self._seeded(sampling_params, prompt_ids, image_data)
        return await self._client.generate_group(
            request_id, prompt_ids=prompt_ids, sampling_params=seeded, image_data=image_data, **rest
        )


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
