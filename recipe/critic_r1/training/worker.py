"""What verl imports in every training worker, through ``actor_rollout_ref.model.external_lib``.

It registers the FSDP engine that prepares images and the attentions that work without flash-attn, and applies the
patches that verl's engine needs on any device.
"""

import importlib.util

from recipe.critic_r1 import compat
from recipe.critic_r1.images import engine  # noqa: F401  (registers itself)
from recipe.critic_r1.training import attention, release_loss  # noqa: F401  (both register themselves)

compat.head_with_the_root()
compat.models_in_compute_dtype()
if importlib.util.find_spec("flash_attn") is None:
    compat.attention_without_flash_attn()
