"""verl's FSDP engines on device ``cpu``; imported through ``actor_rollout_ref.model.external_lib``.

verl registers its FSDP engines for cuda and npu only. Ours are the same engines, FSDP1 and FSDP2, without what needs an
accelerator: the offload of parameters to pinned host memory (they are on the host anyway), and FSDP1's broadcast of the
weights (every rank loads them).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from recipe.critic_r1 import compat
from recipe.critic_r1.images.engine import PreparesImages
from recipe.critic_r1.training import worker  # noqa: F401  (attention, and the patches for any device)

compat.weights_stay_where_they_are()


@contextmanager
def _without_offload(engine_config: Any) -> Iterator[None]:
    # verl's engine configuration is a frozen dataclass; `_build_fsdp_module` reads these two fields only for offload.
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

    def _build_model_optimizer(self) -> None:
        with compat.fsdp1_on_cpu() if self.engine_config.strategy == "fsdp" else nullcontext():
            super()._build_model_optimizer()  # type: ignore[misc]

    def _build_fsdp_module(self, module: Any) -> Any:
        with _without_offload(self.engine_config):
            return super()._build_fsdp_module(module)  # type: ignore[misc]


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithLMHead(_OnCPU, PreparesImages, FSDPEngineWithLMHead):  # type: ignore[misc]
    """Actor and reference."""


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithValueHead(_OnCPU, FSDPEngineWithValueHead):  # type: ignore[misc]
    """Value model (PPO); GRPO does not use it."""
