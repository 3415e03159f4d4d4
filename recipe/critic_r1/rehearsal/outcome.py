"""What a rehearsal measured, against preflight's estimate: a table, a verdict, and what to change."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from recipe.critic_r1.preflight.memory import TIGHT
from recipe.critic_r1.preflight.memory_estimate import (
    CUDA_GIB,
    GIB,
    checkpoint_bytes,
    host_lines,
    log_probability_lines,
    rollout_lines,
    total,
    training_lines,
)
from recipe.critic_r1.preflight.model_shape import ModelShape
from recipe.critic_r1.rehearsal.dress_rehearsal import RehearsalMeasures

PARTS = ("gen", "reward", "old_log_prob", "ref", "adv", "update_actor", "update_weights")
"""Parts of a step, in verl's names and order."""

AGREEMENT = "training/rollout_actor_probs_pearson_corr"

WIDE = 1.25
"""A measurement within this factor of its estimate confirms it."""

ROOMY = 0.6
"""Share of a GPU below which larger micro-batches are worth a try."""

LONG_CHECKPOINT = 0.1
"""Share of the time between two checkpoints above which saving them is worth a change."""

LONG_GENERATION = 0.6
"""Share of a step."""


@dataclass(frozen=True)
class OutcomeRow:
    """One line of the table."""

    name: str
    measured: str
    estimate: str = ""
    limit: str = ""


@dataclass(frozen=True)
class RehearsalOutcome:
    """The table, and what follows from it."""

    rows: list[OutcomeRow]
    fits: bool
    verdict: str
    advice: list[str]


def outcome(config: DictConfig, found: RehearsalMeasures) -> RehearsalOutcome:
    """Judge a rehearsal that came to its end.

    Args:
        config: the run's configuration.
        found: what was measured.
    """
    on_cpu = config.trainer.device == "cpu"
    # The first step compiles, and fills caches.
    later = found.steps[1:] or found.steps
    step = _median(later, "timing_s/step")
    shape = ModelShape.from_config(found.model)
    rows = [*_sizes(config, found), *_times(found, later, step)]
    device = None if on_cpu else _device_estimate(config, shape, found)
    pixels = float(found.limits.side**2)
    host = None if on_cpu or shape is None else total(host_lines(shape, config, pixels, found.limits.file_bytes))
    peak = max(metrics.get("actor/perf/max_memory_allocated_gb", 0.0) for metrics in found.steps)
    if on_cpu:
        rows.append(OutcomeRow("training process, peak memory", _gib(peak)))
    else:
        rows.append(OutcomeRow("GPU memory, training", _gib(peak), _gib(None if device is None else device[0])))
        whole = None if device is None else device[1]
        rows.append(
            OutcomeRow("GPU memory, all processes", _gib(found.device_gib), _gib(whole), _gib(found.device_total_gib))
        )
    rows.append(OutcomeRow("host memory, this machine", _gib(found.host_gib), _gib(host), _gib(found.host_total_gib)))
    size = None if shape is None else checkpoint_bytes(shape, config) / GIB
    rows.append(OutcomeRow("checkpoint, size", _gib(found.checkpoint_bytes / GIB), _gib(size)))
    rows.append(OutcomeRow("checkpoint, time", f"{found.checkpoint_seconds:.1f} s"))
    if (agreement := _worst(found.steps, AGREEMENT)) is not None:
        rows.append(OutcomeRow("rollout and actor agree to", f"{agreement:.4f}"))
    shares = [
        ("GPU", found.device_gib, found.device_total_gib),
        ("host", found.host_gib, found.host_total_gib),
    ]
    tight = [name for name, used, have in shares if used is not None and have and used > TIGHT * have]
    verdict = f"tight: more than {TIGHT:.0%} of the memory of {' and '.join(tight)} was used" if tight else "it fits"
    estimates = [
        ("GPU memory, training", peak, None if device is None else device[0]),
        ("host memory", found.host_gib, host),
    ]
    return RehearsalOutcome(rows, not tight, verdict, list(_advice(config, found, later, step, tight, estimates)))


def _sizes(config: DictConfig, found: RehearsalMeasures) -> Iterator[OutcomeRow]:
    limits = found.limits
    yield OutcomeRow("image", f"{limits.side} x {limits.side} pixels")
    yield OutcomeRow("prompt, tokens", f"{limits.prompt_tokens}", limit=str(config.data.max_prompt_length))
    response = statistics.fmean(metrics["response_length/mean"] for metrics in found.steps)
    yield OutcomeRow("response, tokens", f"{response:.0f}", limit=str(config.data.max_response_length))


def _times(found: RehearsalMeasures, later: Sequence[dict[str, float]], step: float) -> Iterator[OutcomeRow]:
    yield OutcomeRow("first step", f"{found.steps[0]['timing_s/step']:.1f} s")
    yield OutcomeRow("a later step", f"{step:.1f} s")
    for part in PARTS:
        if any(f"timing_s/{part}" in metrics for metrics in later):
            yield OutcomeRow(f"  {part}", f"{_median(later, f'timing_s/{part}'):.1f} s")
    yield OutcomeRow("tokens/s of a GPU", f"{_median(later, 'perf/throughput'):,.0f}")
    yield OutcomeRow("MFU of the update", f"{_median(later, 'perf/mfu/actor'):.1%}")


def _device_estimate(
    config: DictConfig, shape: ModelShape | None, found: RehearsalMeasures
) -> tuple[float, float] | None:
    """GiB of a GPU: of the training process's tensors, and of everything in the fuller of the two phases."""
    if shape is None:
        return None
    training = max(total(training_lines(shape, config)), total(log_probability_lines(shape, config)))
    have = found.device_total_gib or config.critic_r1.machine.gpu_memory_gib
    rollout = 0.0 if have is None else total(rollout_lines(shape, config, have))
    return training, max(training, rollout) + CUDA_GIB


def _advice(
    config: DictConfig,
    found: RehearsalMeasures,
    later: Sequence[dict[str, float]],
    step: float,
    tight: Sequence[str],
    estimates: Sequence[tuple[str, float, float | None]],
) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    if "GPU" in tight:
        yield "tuning=fast, or a smaller actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu, frees GPU memory."
    if "host" in tight:
        yield "A smaller data.train_batch_size or lower pixel limits free host memory."
    used, have = found.device_gib, found.device_total_gib
    if used is not None and have and used < ROOMY * have:
        key = "ppo_max_token_len_per_gpu" if actor.use_dynamic_bsz else "ppo_micro_batch_size_per_gpu"
        yield f"{have - used:.0f} GiB of the GPU are free: try a larger actor_rollout_ref.actor.{key}."
    if _median(later, "timing_s/gen") > LONG_GENERATION * step and config.trainer.device != "cpu":
        yield (
            "Most of a step is generation: try a larger actor_rollout_ref.rollout.gpu_memory_utilization, or a smaller "
            "tensor_model_parallel_size. Real responses are shorter than the limit."
        )
    between = config.trainer.save_freq * step
    if between > 0 and found.checkpoint_seconds > LONG_CHECKPOINT * between:
        yield (
            f"A checkpoint takes {found.checkpoint_seconds:.0f} s, and {between:.0f} s of training lie between two: "
            "raise trainer.save_freq."
        )
    agreement, least = _worst(found.steps, AGREEMENT), config.critic_r1.rollout_agreement.min_pearson
    if agreement is not None and agreement < least:
        yield (
            f"Rollout and actor agree to {agreement:.4f}; a run stops below {least} "
            "(critic_r1.rollout_agreement.min_pearson). Compare versions and pixel limits."
        )
    for name, measured, estimate in estimates:
        if estimate and not estimate / WIDE <= measured <= estimate * WIDE:
            yield f"{name}: {measured:.0f} GiB against an estimate of {estimate:.0f} GiB. Plan with the measurement."


def _median(steps: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(metrics.get(name, 0.0) for metrics in steps)


def _worst(steps: Sequence[dict[str, float]], name: str) -> float | None:
    return min((metrics[name] for metrics in steps if name in metrics), default=None)


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} GiB"
