"""Every configuration composes, verl accepts it, and the release's numbers are what they were."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

CONFIG_DIR = Path(__file__).parents[2] / "recipe" / "critic_r1" / "config"
PRIMARY = sorted(
    path.stem for path in CONFIG_DIR.glob("*.yaml") if "searchpath" in yaml.safe_load(path.read_text()).get("hydra", {})
)
GIVEN = ["actor_rollout_ref.model.path=/model", "data.train_files=/train.parquet", "data.val_files=/val.parquet"]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        return compose(name, overrides=[*GIVEN, *overrides])


def test_the_demo_is_a_primary_configuration() -> None:
    assert "demo" in PRIMARY


@pytest.mark.parametrize("name", PRIMARY)
def test_verl_accepts_it(name: str) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = composed(name)
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    for part in ("actor", "rollout"):
        omega_conf_to_dataclass(config.actor_rollout_ref[part])
    omega_conf_to_dataclass(config.algorithm)


# The release's number (paper's public training script) and where verl 0.9.1 keeps it.
RELEASE = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.kl_loss_coef": 1e-2,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.3,
    "actor_rollout_ref.actor.clip_ratio_c": 3.0,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "data.train_batch_size": 256,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 8,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 0.99,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
    "actor_rollout_ref.rollout.gpu_memory_utilization": 0.6,
    "actor_rollout_ref.rollout.max_model_len": 8192,
    "actor_rollout_ref.rollout.max_num_batched_tokens": 8192,
    "data.max_prompt_length": 6142,
    "data.max_response_length": 2048,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.weight_decay": 1e-2,
    "actor_rollout_ref.actor.optim.betas": [0.9, 0.999],
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.0,
    "actor_rollout_ref.actor.grad_clip": 1.0,
    "actor_rollout_ref.actor.freeze_vision_tower": False,
    "trainer.total_epochs": 15,
    "trainer.save_freq": 10,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 8,
}


@pytest.mark.parametrize(("key", "number"), RELEASE.items())
def test_the_common_part_holds_the_numbers_of_the_release(key: str, number: object) -> None:
    common = OmegaConf.load(CONFIG_DIR / "critic_grpo.yaml")
    assert OmegaConf.to_container(OmegaConf.create({"x": OmegaConf.select(common, key)}))["x"] == number  # type: ignore[index]


def test_an_unknown_key_is_refused() -> None:
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match=r"trainer\.total_trianing_steps"):
        composed("demo", "trainer.total_trianing_steps=3")


def test_the_cpu_configuration_sets_its_own_environment() -> None:
    env = composed("demo").ray_kwargs.ray_init.runtime_env.env_vars
    assert env.VERL_PLATFORM == "cpu"
    assert all(isinstance(value, str) for value in env.values())  # Ray refuses anything else
