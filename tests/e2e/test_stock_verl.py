"""Stock `verl.trainer.main_ppo` with nothing of ours but the CPU platform and a reward, named by its path."""

from pathlib import Path

import pytest

import reward_fns
from tests.e2e.conftest import Workshop, start

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

# What verl's own configuration has to be told for a tiny model; the platform's settings are our cluster/cpu.yaml.
SETTINGS = {
    "algorithm.adv_estimator": "grpo",
    "critic.enable": False,
    "data.max_prompt_length": 64,
    "data.max_response_length": 20,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.max_model_len": 96,
    "actor_rollout_ref.rollout.max_num_batched_tokens": 4096,
    "reward.custom_reward_function.name": "compute_score",
    # In processes of its own: the reward, named by its path, has to travel there.
    "reward.reward_manager.name": "remote",
    "trainer.total_training_steps": 2,
    "trainer.val_before_train": False,
}


def test_two_steps(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # verl composes its configuration after it has imported itself
    reward = Path(reward_fns.__file__).with_name("preference.py")
    given = [f"{key}={value}" for key, value in SETTINGS.items()]
    ours = [item for item in workshop.overrides(tmp_path) if not item.startswith("critic_r1.")]
    arguments = [
        "hydra.searchpath=[pkg://recipe.critic_r1.config]",
        f"hydra.run.dir={tmp_path}",
        "+cluster=cpu",
        *given,
        *ours,
        f"reward.custom_reward_function.path={reward}",
        "+reward.custom_reward_function.reward_kwargs.tie_credit=0.3",
        f"trainer.default_local_dir={tmp_path / 'checkpoints'}",
        f"trainer.rollout_data_dir={tmp_path / 'rollouts'}",
    ]
    status, text = start("verl.trainer.main_ppo", arguments, tmp_path / "log")
    assert status == 0, text[-3000:]
    assert (tmp_path / "checkpoints" / "global_step_2" / "actor").is_dir()
    assert "step:2 - " in text
    assert "SharedPromptWorker" not in text
    for step in (1, 2):
        assert len((tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()) == 32
