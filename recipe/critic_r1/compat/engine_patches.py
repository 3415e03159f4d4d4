"""Patches of verl's training engine, each with its reason; docs/upstream.md has the report for verl."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from recipe.critic_r1.compat.patches import install
from recipe.critic_r1.compat.versions import VERL, IncompatibleVersion, check_sources, check_version

HEAD_FUNCTIONS = {
    "verl.utils.fsdp_utils:_select_fsdp2_wrap_targets": "880df8bb722e",
    "verl.models.transformers.qwen2_vl:forward_with_torch_backend": "cf8fbcb0b8f6",
    "verl.models.transformers.qwen3_vl:forward_with_torch_backend": "50c72a77caa1",
}
"""What `head_with_the_root` was written against."""

ATTENTION_FUNCTIONS = {
    "verl.models.transformers.qwen2_vl:_custom_flash_attention_forward": "57894f3fa8d0",
    "verl.models.transformers.qwen2_vl:prepare_fa2_from_position_ids": "3f8983f2e98a",
}
"""What `attention_without_flash_attn` was written against."""

FSDP1_FUNCTIONS = {"verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module": "c349ebbf10c9"}
"""What `fsdp1_on_cpu` was written against."""

CHECKPOINT_FUNCTIONS = {
    "verl.utils.checkpoint.fsdp_checkpoint_manager:FSDPCheckpointManager.save_checkpoint": "23fa46862e96"
}
"""What `models_in_compute_dtype` was written against: the only caller of the function that it replaces."""

REMEDY = "Install verl as it was released (see requirements/)."


def head_with_the_root() -> None:
    """Leave the output head in FSDP2's root unit where the fused kernels read its weight."""
    # verl makes lm_head an FSDP2 unit of its own, whose weight is gathered only while lm_head.forward runs. The fused
    # kernels never call it: they read lm_head.weight, which is then this rank's shard. With Qwen2.5-VL the product
    # fails ("got mixed torch.Tensor and DTensor"). With Qwen3-VL verl gathers it by full_tensor(), which keeps the
    # master dtype (a dtype error in bf16) and whose backward uses this rank's gradient as the sum (49 % off with two
    # ranks). In the root unit the weight is gathered from the model's forward to its backward, in the compute dtype.
    check_version(VERL, "verl")
    check_sources(HEAD_FUNCTIONS, REMEDY)

    def make(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def _select_fsdp2_wrap_targets(model: Any, layers: Any) -> list[Any]:
            units = original(model, layers)
            if getattr(model, "_verl_fused_kernels_backend", None) is None:
                return units
            head = model.get_output_embeddings()
            return [unit for unit in units if unit is not head]

        return _select_fsdp2_wrap_targets

    install("verl.utils.fsdp_utils:_select_fsdp2_wrap_targets", make)


def attention_without_flash_attn() -> None:
    """Let Qwen2.5-VL train on packed sequences when flash-attn is not installed (``packed_sdpa``)."""
    # With use_remove_padding, verl replaces the attention of Qwen2-VL and Qwen2.5-VL, whatever attn_implementation
    # says, by one that calls flash-attn. Without flash-attn the names that verl imports from it are not defined, and
    # the first forward pass ends in NameError: _flash_use_top_left_mask.
    check_version(VERL, "verl")
    check_sources(ATTENTION_FUNCTIONS, REMEDY)
    from verl.models.transformers import qwen2_vl

    from recipe.critic_r1.training import attention

    if hasattr(qwen2_vl, "flash_attn_varlen_func"):
        return
    qwen2_vl.flash_attn_varlen_func = attention.varlen_attention
    qwen2_vl._flash_attention_forward = attention.dense_attention
    qwen2_vl._flash_supports_window_size = True
    qwen2_vl._flash_supports_deterministic = True
    qwen2_vl._flash_use_top_left_mask = False
    # flash-attn computes in half precision only, so verl casts float32 down for it; torch's kernels need no cast.
    qwen2_vl.fa_peft_integration_check = lambda query, key, value, **_: (query, key, value)


def models_in_compute_dtype() -> None:
    """Save a checkpoint's Hugging Face folder in the dtype that the model computes in, as published models are."""
    # verl saves it in the dtype of the optimizer's weights: twice the disk and, since one rank writes while the others
    # wait, twice the time. The shards keep float32 for the resume.
    check_version(VERL, "verl")
    check_sources(CHECKPOINT_FUNCTIONS, REMEDY)

    def make(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def get_fsdp_full_state_dict(model: Any, *args: Any, **settings: Any) -> dict[str, Any]:
            weights, dtype = original(model, *args, **settings), _compute_dtype(model)
            if dtype is None:
                return weights
            return {name: item.to(dtype) if item.is_floating_point() else item for name, item in weights.items()}

        return get_fsdp_full_state_dict

    install("verl.utils.checkpoint.fsdp_checkpoint_manager:get_fsdp_full_state_dict", make)


def _compute_dtype(model: Any) -> Any:
    """The dtype that FSDP1 or FSDP2 casts the weights of ``model`` to; None when it does not cast them."""
    policy = getattr(model, "mixed_precision", None)
    if policy is None and hasattr(model, "_get_fsdp_state"):
        policy = model._get_fsdp_state()._mp_policy
    return getattr(policy, "param_dtype", None)


@contextmanager
def fsdp1_on_cpu() -> Iterator[None]:
    """Let verl build FSDP1 units from parameters that are on the CPU."""
    # verl lets only the first rank load the weights and FSDP1 broadcast them (sync_module_states), which works on an
    # accelerator only. Here every rank loads the weights, and nothing is broadcast.
    check_version(VERL, "verl")
    check_sources(FSDP1_FUNCTIONS, REMEDY)
    import torch
    from verl.workers.engine.fsdp import transformer_impl

    class LoadedOnEachRank(torch.distributed.fsdp.FullyShardedDataParallel):
        def __init__(self, module: Any, **settings: Any) -> None:
            settings |= {"sync_module_states": False, "param_init_fn": None, "device_id": torch.device("cpu")}
            super().__init__(module, **settings)

    names = ("FSDP", "get_init_weight_context_manager")
    originals = [getattr(transformer_impl, name) for name in names]
    if originals[0] is not torch.distributed.fsdp.FullyShardedDataParallel:
        raise IncompatibleVersion(f"verl builds {originals[0]}, not torch's FullyShardedDataParallel. {REMEDY}")
    try:
        transformer_impl.FSDP = LoadedOnEachRank
        transformer_impl.get_init_weight_context_manager = lambda **_: nullcontext
        yield
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(transformer_impl, name, original)
