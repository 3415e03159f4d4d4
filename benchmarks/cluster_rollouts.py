"""Rollouts whose random numbers do not depend on where and when they are drawn.

Two runs can be compared rollout by rollout only when both draw the same ones. vLLM's engine has one generator for all
requests, so a response depends on what else is in flight. verl's ``full_determinism`` gives every request of an engine
the same seed, which makes the n rollouts of a prompt one and the same. Here each rollout has a seed of its own, made of
step, pair, order and number; two runs then differ by rounding alone.

A measuring device, named in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

import itertools
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import ray

from recipe.critic_r1.rollout.agent_loop import CriticAgentLoopManager, SharedPromptWorker

_SEEDS: ContextVar[Iterator[int]] = ContextVar("seeds")


class SeededWorker(SharedPromptWorker):
    """`SharedPromptWorker` with a seed for each rollout."""

    async def _run_group(self, prompt: dict, *args: Any, **kwargs: Any) -> None:
        row = prompt["extra_info"]
        name = f"{prompt['global_steps']}/{row['pair_id']}/{row['order']}"
        _SEEDS.set(itertools.count(zlib.crc32(name.encode())))
        await super()._run_group(prompt, *args, **kwargs)

    async def _generate(self, prepared: Any, sampling: dict, priority: int) -> Any:
        # A group's rollouts start in their order, each in a task that has copied the context of the group.
        return await super()._generate(prepared, sampling | {"seed": next(_SEEDS.get())}, priority)


class SeededLoops(CriticAgentLoopManager):
    """The recipe's manager with `SeededWorker`."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SeededWorker)
