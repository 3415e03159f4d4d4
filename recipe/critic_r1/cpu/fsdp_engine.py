"""verl's FSDP2 engine on device ``cpu``; imported through ``actor_rollout_ref.model.external_lib``.

verl registers its FSDP engines for cuda and npu only. Ours is the same engine with one difference. A forward-only
engine (the reference policy) asks FSDP2 to offload parameters to the host, and pins that memory, which needs CUDA.
Here the parameters are on the host anyway, so the offload is switched off while the module is wrapped.

FSDP1 is not offered: it refuses parameters on the CPU together with ``sync_module_states``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from recipe.critic_r1.cpu import attention  # noqa: F401  (registers causal_sdpa)
from recipe.critic_r1.images.engine import PreparesImages


@contextmanager
def _without_offload(engine_config: Any) -> Iterator[None]:
    # verl's engine configuration is a frozen dataclass; `_build_fsdp_module` reads these two fields for nothing else.
    saved = engine_config.forward_only, engine_config.offload_policy
    object.__setattr__(engine_config, "forward_only", False)
    object.__setattr__(engine_config, "offload_policy", False)
    try:
        yield
    finally:
        object.__setattr__(engine_config, "forward_only", saved[0])
        object.__setattr__(engine_config, "offload_policy", saved[1])


class _OnCPU:
    engine_config: Any

    def _build_fsdp_module(self, module: Any) -> Any:
        if self.engine_config.strategy != "fsdp2":
            raise ValueError(
                f"strategy={self.engine_config.strategy!r} does not run on a CPU; "
                "set actor_rollout_ref.actor.strategy=fsdp2"
            )
        with _without_offload(self.engine_config):
            return super()._build_fsdp_module(module)  # type: ignore[misc]


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithLMHead(_OnCPU, PreparesImages, FSDPEngineWithLMHead):
    """Actor and reference."""


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithValueHead(_OnCPU, FSDPEngineWithValueHead):
    """Value model (PPO); GRPO does not use it."""
