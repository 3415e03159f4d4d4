"""The memory estimate, compared with the machines that the configuration names."""

from collections.abc import Iterator

from omegaconf import DictConfig

from recipe.critic_r1.preflight.data_files import files, mean_image
from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.memory_estimate import (
    CUDA_GIB,
    GIB,
    EstimateLine,
    cache_tokens,
    host_lines,
    image_cpu_seconds,
    log_probability_lines,
    longest_sequence,
    rollout_lines,
    total,
    training_lines,
)
from recipe.critic_r1.preflight.model_shape import ModelShape

TIGHT = 0.9
"""Share of the memory above which an estimate gets a warning, because of fragmentation."""


def estimate(config: DictConfig) -> Iterator[Finding]:
    """GPU memory in each phase, KV cache, host memory, CPU time for images."""
    if config.trainer.device == "cpu" or config.actor_rollout_ref.model.path is None:
        return
    shape = ModelShape.of(config)
    if shape is None:
        yield Finding(
            "memory estimate",
            "warn",
            f"the sizes of {config.actor_rollout_ref.model.path} are not known",
            "Give a local model folder of Qwen2.5-VL or Qwen3-VL; only these families are estimated.",
        )
        return
    gpu, host = config.critic_r1.machine.gpu_memory_gib, config.critic_r1.machine.host_memory_gib
    lines = training_lines(shape, config)
    smaller = "Lower the micro-batch, or take more GPUs, tuning=fast, or actor.fsdp_config.offload_policy=true (fsdp2)."
    yield _compare("GPU memory, training", lines, gpu, CUDA_GIB, smaller)
    lines = log_probability_lines(shape, config)
    smaller = "Lower rollout.log_prob_micro_batch_size_per_gpu, or actor.entropy_from_logits_with_chunking=true."
    yield _compare("GPU memory, log-probabilities", lines, gpu, CUDA_GIB, smaller)
    if gpu is not None:
        lines = rollout_lines(shape, config, gpu)
        yield _compare("GPU memory, rollout", lines, gpu, CUDA_GIB, "Lower rollout.gpu_memory_utilization.")
        yield _cache(shape, config, gpu)
    mean = mean_image(files(config.data.train_files), roots=config.data.get("image_roots") or ())
    pixels, file_bytes = mean or (None, None)
    shown = _limited(pixels, config)
    lines = host_lines(shape, config, shown, file_bytes)
    yield _compare("host memory", lines, host, 0.0, "Lower data.train_batch_size or the pixel limits, or take more.")
    if shown:
        seconds, formula = image_cpu_seconds(config, shown)
        yield Finding("host CPU for images", "pass", f"about {seconds:.0f} CPU seconds a step [{formula}]")


def _compare(name: str, lines: list[EstimateLine], have: float | None, extra: float, remedy: str) -> Finding:
    need = total(lines) + extra
    parts = ", ".join(f"{line.name} {line.bytes / GIB:.1f} [{line.formula}]" for line in lines if line.bytes)
    detail = f"about {need:.0f} GiB" + (f" of {have:g}" if have is not None else "") + f": {parts}"
    if have is None or need <= TIGHT * have:
        return Finding(name, "pass", detail)
    return Finding(name, "fail" if need > have else "warn", detail, remedy)


def _cache(shape: ModelShape, config: DictConfig, gpu: float) -> Finding:
    tokens = cache_tokens(shape, config, gpu)
    longest = longest_sequence(config)
    detail = f"about {max(tokens, 0):,.0f} tokens, {max(tokens, 0) / longest:.0f} longest sequences at a time"
    if tokens >= longest:
        return Finding("KV cache", "pass", detail)
    remedy = "Raise rollout.gpu_memory_utilization or rollout.tensor_model_parallel_size."
    return Finding("KV cache", "fail", f"{detail}: not one of {longest} tokens", remedy)


def _limited(pixels: float | None, config: DictConfig) -> float | None:
    """The mean, clipped to the processor's limits when the configuration sets them."""
    if not pixels:
        return None
    limits = config.data.mm_processor_kwargs or {}
    return float(min(max(pixels, limits.get("min_pixels", 0)), limits.get("max_pixels", pixels)))
