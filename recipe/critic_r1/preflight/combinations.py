"""Settings that verl 0.9.1 accepts and that then fail, train on a wrong gradient, or do nothing."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.software import attention_of

HEAD_IS_MENDED = ("recipe.critic_r1.training.worker", "recipe.critic_r1.cpu.fsdp_engine")
"""Values of ``model.external_lib`` that keep the output head in FSDP2's root unit."""

UNPACKED = ("sdpa", "eager", "causal_sdpa", "flex_attention")
"""Attention implementations that attend across the sequences of a packed row."""


def fused_head(config: DictConfig) -> Iterator[Finding]:
    """Fused kernels read the output head's weight, which FSDP2 keeps sharded."""
    part = config.actor_rollout_ref
    if (
        part.actor.strategy == "fsdp2"
        and part.model.use_fused_kernels
        and part.model.external_lib not in HEAD_IS_MENDED
    ):
        yield Finding(
            "fused kernels",
            "fail",
            "with FSDP2 verl reads the output head while it is sharded: Qwen2.5-VL fails (mixed torch.Tensor and "
            "DTensor), Qwen3-VL trains on a wrong gradient of the head",
            "actor_rollout_ref.actor.strategy=fsdp, or actor_rollout_ref.model.use_fused_kernels=false.",
        )


def packing(config: DictConfig) -> Iterator[Finding]:
    """Packed rows need an attention implementation that keeps their sequences apart."""
    attention = attention_of(config)
    if config.actor_rollout_ref.model.use_remove_padding and attention in UNPACKED:
        yield Finding(
            "padding removal",
            "fail",
            f"attn_implementation={attention} does not keep packed sequences apart",
            "actor_rollout_ref.model.use_remove_padding=false, or flash_attention_2.",
        )


def rollout_engine(config: DictConfig) -> Iterator[Finding]:
    """Pixel limits and shared prompts are passed to vLLM only."""
    name = config.actor_rollout_ref.rollout.name
    if name != "vllm":
        yield Finding(
            "rollout engine",
            "fail",
            f"rollout.name={name} does not receive the pixel limits: rollout and actor would see different images",
            "actor_rollout_ref.rollout.name=vllm",
        )


def without_effect(config: DictConfig) -> Iterator[Finding]:
    """Keys that verl 0.9.1 has and that this trainer never reads."""
    if config.actor_rollout_ref.actor.freeze_vision_tower:
        yield Finding(
            "freeze_vision_tower",
            "fail",
            "verl 0.9.1 ignores it: the vision tower would be trained",
            "Leave it false; tuning=lora trains adapters of the decoder only.",
        )
    for key in ("actor_rollout_ref.rollout.multi_stage_wake_up", "trainer.balance_batch"):
        default = key == "trainer.balance_batch"  # verl's
        if bool(OmegaConf.select(config, key)) != default:
            yield Finding(key, "warn", "without effect in this trainer", f"Leave {key} out.")


def adapters(config: DictConfig) -> Iterator[Finding]:
    """Settings that do not work with LoRA."""
    part = config.actor_rollout_ref
    if part.model.lora_rank > 0 and part.rollout.load_format != "safetensors":
        yield Finding(
            "LoRA",
            "fail",
            f"rollout.load_format={part.rollout.load_format}: only adapters are sent to the rollout engine, which must "
            "load the base itself",
            "actor_rollout_ref.rollout.load_format=safetensors",
        )
