"""Everything that depends on one release of verl, vLLM or torch: versions, pinned sources, and every patch."""

from recipe.critic_r1.compat.cpu_patches import apply_cpu, keep_plain_linear_weights
from recipe.critic_r1.compat.patches import apply, poll, text_only_micro_batches
from recipe.critic_r1.compat.versions import (
    VERL,
    VLLM,
    IncompatibleVersion,
    check_sources,
    check_version,
    source_digest,
)

__all__ = [
    "VERL",
    "VLLM",
    "IncompatibleVersion",
    "apply",
    "apply_cpu",
    "check_sources",
    "check_version",
    "keep_plain_linear_weights",
    "poll",
    "source_digest",
    "text_only_micro_batches",
]
