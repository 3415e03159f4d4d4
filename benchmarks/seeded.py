"""Rollouts whose random numbers do not depend on where and when they are sampled.

vLLM's engine has one generator for all requests, so a response depends on what else is in flight, and two runs that
send the same requests a little earlier or later sample other responses. verl's ``full_determinism`` gives every request
of an engine the same seed, which makes the n rollouts of a prompt one and the same. Here each request has a seed of its
own; two runs then differ by rounding alone. `SeededLoops` seeds by prompt and images and by how often that was asked
(for one worker, on either path); `PlacedLoops` by step, pair, order and number (for several workers, on our path).

For measurements only; named in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

import zlib
from collections import Counter
from contextvars import ContextVar
from typing import Any

import numpy as np
import ray

from recipe.critic_r1.rollout.agent_loop import SHARED, CriticAgentLoopManager, SharedPromptWorker, _StockWorker

_FIRST_SEED: ContextVar[int] = ContextVar("first_seed")


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


class PlacedClient(SeededClient):
    """One that seeds the rollouts of a group by the group's place and their number."""

    async def _seeded(self, each: list[dict[str, Any]], prompt_ids: list[int], image_data: Any) -> list[dict[str, Any]]:
        return [{**sampling, "seed": _FIRST_SEED.get() + i} for i, sampling in enumerate(each)]


class PlacedWorker(SharedPromptWorker):
    """`SharedPromptWorker` with a seed for each rollout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client: Any = PlacedClient(self.llm_client)

    async def _run_group(self, prompt: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        row = prompt["extra_info"]
        # Each group runs in a task, and so a context, of its own.
        _FIRST_SEED.set(zlib.crc32(f"{prompt['global_steps']}/{row['pair_id']}/{row['order']}".encode()))
        await super()._run_group(prompt, *args, **kwargs)


class PlacedLoops(CriticAgentLoopManager):
    """The recipe's manager with `PlacedWorker`."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.agent_loop_workers_class = ray.remote(PlacedWorker)


class SeededStockWorker(_StockWorker):  # type: ignore[misc]
    """verl's worker, seeded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client: Any = SeededClient(self.llm_client)


class SeededSharedWorker(SharedPromptWorker):
    """Ours, seeded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client: Any = SeededClient(self.llm_client)


class SeededLoops(CriticAgentLoopManager):
    """The recipe's manager with seeded workers on either path."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        shared = config.critic_r1.image_path == SHARED
        self.agent_loop_workers_class = ray.remote(SeededSharedWorker if shared else SeededStockWorker)
