"""What a rehearsal says of its measurements, by hand-made ones of a machine with 80 GB GPUs."""

from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.preflight import memory_estimate as estimate
from recipe.critic_r1.preflight.memory_estimate import GIB
from recipe.critic_r1.preflight.model_shape import ModelShape
from recipe.critic_r1.rehearsal.architectures import architecture
from recipe.critic_r1.rehearsal.dress_rehearsal import RehearsalMeasures, failure
from recipe.critic_r1.rehearsal.limit_tasks import Limits
from recipe.critic_r1.rehearsal.outcome import outcome
from recipe.critic_r1.train import compose_config


@pytest.fixture(autouse=True)
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines of the estimate have it."""
    monkeypatch.setattr(estimate, "has_flash_attn", lambda: True)


def step(seconds: float, **changed: float) -> dict[str, float]:
    parts = {"gen": 0.4, "old_log_prob": 0.1, "ref": 0.1, "update_actor": 0.4}
    return {
        "timing_s/step": seconds,
        **{f"timing_s/{part}": share * seconds for part, share in parts.items()},
        "perf/throughput": 1600.0,
        "perf/mfu/actor": 0.16,
        "actor/perf/max_memory_allocated_gb": 42.0,
        "response_length/mean": 2048.0,
        "training/rollout_actor_probs_pearson_corr": 0.99,
        **changed,
    }


MEASURED = RehearsalMeasures(
    model=architecture("qwen2_5_vl_7b"),
    steps=[step(300), step(100), step(110)],
    limits=Limits(side=2048, prompt_tokens=6142, file_bytes=1e6),
    seconds=900,
    device_gib=66,
    device_total_gib=80,
    host_gib=200,
    host_total_gib=1000,
    checkpoint_bytes=int(108 * GIB),
    checkpoint_seconds=60,
)


def test_the_table_has_the_measurements_beside_the_estimates() -> None:
    config, shape = compose_config("r1", []), ModelShape.from_config(MEASURED.model)
    assert shape is not None
    found = {row.name: row for row in outcome(config, MEASURED).rows}
    assert (found["first step"].measured, found["a later step"].measured) == ("300.0 s", "105.0 s")
    assert found["  update_actor"].measured == "42.0 s"
    assert (found["tokens/s of a GPU"].measured, found["MFU of the update"].measured) == ("1,600", "16.0%")
    assert (found["prompt, tokens"].measured, found["prompt, tokens"].limit) == ("6142", "6142")
    training = max(
        estimate.total(lines(shape, config)) for lines in (estimate.training_lines, estimate.log_probability_lines)
    )
    assert (found["GPU memory, training"].measured, found["GPU memory, training"].estimate) == (
        "42 GiB",
        f"{training:.3g} GiB",
    )
    assert (found["GPU memory, all processes"].measured, found["GPU memory, all processes"].limit) == (
        "66 GiB",
        "80 GiB",
    )
    assert (found["checkpoint, size"].measured, found["checkpoint, size"].estimate) == ("108 GiB", "108 GiB")


# What is measured, overrides, the verdict, and words of the advice; none: there is no advice.
VERDICTS: list[tuple[dict[str, Any], list[str], str, list[str]]] = [
    ({}, [], "it fits", []),
    ({"device_gib": 73.0}, [], "tight: more than 90% of the memory of GPU was used", ["tuning=fast"]),
    ({"host_gib": 950.0}, [], "tight: more than 90% of the memory of host was used", ["train_batch_size", "950 GiB"]),
    ({"device_gib": 40.0}, [], "it fits", ["40 GiB of the GPU are free", "ppo_micro_batch_size_per_gpu"]),
    ({"device_gib": 40.0}, ["tuning=fast"], "it fits", ["ppo_max_token_len_per_gpu"]),
    ({"checkpoint_seconds": 110.0}, [], "it fits", ["A checkpoint takes 110 s", "raise trainer.save_freq"]),
    ({"checkpoint_seconds": 110.0}, ["trainer.save_freq=20"], "it fits", []),
    ({"steps": [step(100, **{"timing_s/gen": 70.0})]}, [], "it fits", ["Most of a step is generation"]),
    (
        {"steps": [step(100, **{"actor/perf/max_memory_allocated_gb": 75.0})]},
        [],
        "it fits",
        ["75 GiB against an estimate of"],
    ),
    (
        {"steps": [step(100, **{"training/rollout_actor_probs_pearson_corr": 0.9})]},
        [],
        "it fits",
        ["agree to 0.9000; a run stops below 0.95"],
    ),
    ({"device_gib": None, "device_total_gib": None}, [], "it fits", []),  # GPUs of other machines only
]


@pytest.mark.parametrize(("changed", "overrides", "verdict", "advice"), VERDICTS)
def test_verdict_and_advice(changed: dict[str, Any], overrides: list[str], verdict: str, advice: list[str]) -> None:
    found = outcome(compose_config("r1", overrides), replace(MEASURED, **changed))
    assert found.verdict == verdict
    assert found.fits == (verdict == "it fits")
    told = " ".join(found.advice)
    assert all(words in told for words in advice), told
    assert bool(found.advice) == bool(advice), told


def test_on_a_cpu_memory_has_no_estimate() -> None:
    config = compose_config("r1", ["+device=cpu", "+sizes=tiny"])
    tiny = replace(MEASURED, model=architecture("tiny_qwen2_5_vl"), device_gib=None, device_total_gib=None)
    found = {row.name: row for row in outcome(config, tiny).rows}
    assert {row.name for row in found.values() if row.estimate not in ("", "-")} == {"checkpoint, size"}
    assert "GPU memory, training" not in found


FAILURES = [
    ("critic-r1: 1 check(s) failed before the run started\nFAIL  CUDA: none", "FAIL  CUDA: none"),
    ("Traceback\n  update_actor\ntorch.OutOfMemoryError: CUDA out of memory", "ppo_micro_batch_size_per_gpu=2"),
    ("Traceback\n  compute_log_prob\nCUDA out of memory", "entropy_from_logits_with_chunking=true"),
    ("Traceback\n  compute_ref_log_prob\nCUDA out of memory", "ref.log_prob_micro_batch_size_per_gpu"),
    ("Traceback\n  wake_up\nCUDA out of memory", "gpu_memory_utilization=0.5"),
    ("Task was killed due to the node running low on memory: memory usage threshold", "more host memory"),
    ("ValueError: no such thing", "ValueError: no such thing"),
]


@pytest.mark.parametrize(("log", "said"), FAILURES)
def test_a_failure_says_what_helps(log: str, said: str) -> None:
    told = failure(log, 1)
    assert said in told
    assert ("Memory ran out" in told) == ("memory" in log)
