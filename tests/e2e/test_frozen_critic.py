"""The frozen critic of a group reward as verl's own reward model."""

from pathlib import Path

import pytest

from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import Workshop, start

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(1800)]


def test_a_frozen_critic(workshop: Workshop, tmp_path: Path) -> None:
    judge = {"judge": "frozen", "template": "compact", "scheme": "win_rate"}
    model = {
        "enable": True,
        "enable_resource_pool": True,
        "n_gpus_per_node": 1,
        "nnodes": 1,
        "model_path": workshop.model,
        "rollout.name": "vllm",
        "rollout.max_model_len": 384,
        "rollout.max_num_batched_tokens": 4096,
        "rollout.prompt_length": 360,
        "rollout.response_length": 24,
    }
    overrides = workshop.overrides(
        tmp_path,
        data__train_files=workshop.policy,
        trainer__total_training_steps=2,
        trainer__save_freq=-1,
        **{f"critic_r1__group_reward__{name}": value for name, value in judge.items()},
        **{f"reward__reward_model__{name}": value for name, value in model.items()},
    )
    overrides += [f"+critic_r1.group_reward.{option}" for option in ("max_tokens=20", "attempts=1")]
    overrides += ["ray_kwargs.ray_init.num_gpus=2"]
    arguments = ["--config-name", "demo", "+variant=policy_by_critic", *overrides]
    status, text = start("recipe.critic_r1.train", arguments, tmp_path / "log")
    assert status == 0, text[-6000:]
    metrics = [record["data"] for record in read_lines(tmp_path / "train" / "metrics.jsonl")]
    samples = list(read_lines(tmp_path / "train" / "samples.jsonl"))
    assert {sample["group"]["unjudged"] for sample in samples} == {0.0}
    assert sum(data["critic_r1/judge/completion_tokens"] for data in metrics) > 0
