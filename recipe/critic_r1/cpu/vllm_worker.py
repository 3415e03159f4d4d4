"""vLLM's CPU worker with weights that verl can write into; named in ``engine_kwargs.vllm.worker_extension_cls``.

vLLM-CPU packs each linear layer into a oneDNN handle and then drops ``layer.weight``, so the weight sync after the
first training step would find nothing to load into. Without oneDNN it multiplies by the plain weight.
"""

from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from recipe.critic_r1 import compat


class CPUWorkerExtension(vLLMColocateWorkerExtension):  # type: ignore[misc]
    """verl's colocated worker extension, on plain weights."""

    def __new__(cls, **kwargs: Any) -> "CPUWorkerExtension":
        compat.keep_plain_linear_weights()
        made: CPUWorkerExtension = super().__new__(cls, **kwargs)
        return made
