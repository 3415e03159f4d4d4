"""Everything that depends on one release of verl, vLLM or torch: versions, pinned sources and patches."""

from recipe.critic_r1.compat.cpu_patches import apply_cpu, keep_plain_linear_weights, weights_stay_where_they_are
from recipe.critic_r1.compat.engine_patches import (
    attention_without_flash_attn,
    fsdp1_on_cpu,
    head_with_the_root,
    models_in_compute_dtype,
)
from recipe.critic_r1.compat.patches import (
    apply,
    micro_batches_of_named_rows,
    poll,
    registered_attention_where_asked,
    serve_images_as_trained,
    text_only_micro_batches,
)
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
    "attention_without_flash_attn",
    "check_sources",
    "check_version",
    "fsdp1_on_cpu",
    "head_with_the_root",
    "keep_plain_linear_weights",
    "micro_batches_of_named_rows",
    "models_in_compute_dtype",
    "poll",
    "registered_attention_where_asked",
    "serve_images_as_trained",
    "source_digest",
    "text_only_micro_batches",
    "weights_stay_where_they_are",
]
