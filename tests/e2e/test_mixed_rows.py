"""Three steps on every kind of row at once: without images, with one, several, images as responses, frames."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.sources import digits
from data_prep.sources.record import FRAME_MARK
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import PreferencePair
from data_prep.writer import write_parquet
from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import MIN_PEARSON, Workshop, start

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(1800)]

STEPS, ROWS, ROLLOUTS = 3, 10, 2


def mixed_pairs() -> Iterator[PreferencePair]:
    """Six pairs of each kind, one after another; the source says which."""
    images = [digit.image for digit in digits.load_digit_images()[:64]]
    asked, texts, drawn = digits.QUESTION, ("7", "3"), ("<image>", "<image>")
    for n in range(6):
        shown = images[8 * n : 8 * n + 8]
        yield PreferencePair("text", (), f"{asked} {n}", texts, 0)
        yield PreferencePair("one", shown[:1], asked, texts, 1)
        yield PreferencePair("several", shown[1:3], f"<image> {asked} <image>", texts, 0)
        yield PreferencePair("drawn", shown[3:6], asked, drawn, n % 2, response_images=(1, 1))  # type: ignore[arg-type]
        yield PreferencePair("frames", shown[4:8], f"{FRAME_MARK}\n{asked}", texts, 1)


@pytest.mark.parametrize("path", ["shared", "stock"])
def test_three_steps(path: str, workshop: Workshop, tmp_path: Path) -> None:
    tasks = preference_tasks(mixed_pairs(), template="compact", orders="balanced")
    write_parquet(tasks, tmp_path / "data")
    values = {
        "data__train_files": tmp_path / "data" / "train-00000.parquet",
        "data__train_batch_size": ROWS,
        "data__max_prompt_length": 160,
        "actor_rollout_ref__rollout__max_model_len": 192,
        "actor_rollout_ref__rollout__n": ROLLOUTS,
        "actor_rollout_ref__rollout__engine_kwargs__vllm__limit_mm_per_prompt__image": 4,
        "actor_rollout_ref__actor__ppo_mini_batch_size": ROWS,
        "actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu": ROWS * ROLLOUTS,
        "actor_rollout_ref__ref__log_prob_micro_batch_size_per_gpu": ROWS * ROLLOUTS,
        "actor_rollout_ref__rollout__log_prob_micro_batch_size_per_gpu": ROWS * ROLLOUTS,
        "critic_r1__image_path": path,
        "critic_r1__prompt_path": "once" if path == "shared" else "stock",
        "trainer__total_training_steps": STEPS,
    }
    arguments = ["--config-name", "demo", *workshop.overrides(tmp_path / "run", **values)]
    status, text = start("recipe.critic_r1.train", arguments, tmp_path / "log")
    assert status == 0, text[-3000:]
    logged = list(read_lines(tmp_path / "run" / "train" / "metrics.jsonl"))
    assert [record["step"] for record in logged] == [1, 2, 3]
    for record in logged:
        assert record["data"]["training/rollout_actor_probs_pearson_corr"] > MIN_PEARSON
        assert record["data"]["training/rollout_probs_diff_max"] < 1e-2
        assert math.isfinite(record["data"]["actor/grad_norm"])
    samples = list(read_lines(tmp_path / "run" / "train" / "samples.jsonl"))
    kinds = Counter(sample["data_source"] for sample in samples)
    assert kinds == dict.fromkeys((f"critic/{kind}" for kind in ("text", "one", "several", "drawn", "frames")), 12)
    assert Counter(len(sample["image"] or ()) for sample in samples) == {0: 12, 1: 12, 2: 12, 3: 12, 4: 12}
