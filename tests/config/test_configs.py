"""Every configuration composes, verl accepts it, and the release's numbers are what they were."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

CONFIG_DIR = Path(__file__).parents[2] / "recipe" / "critic_r1" / "config"
PRIMARY = sorted(
    path.stem for path in CONFIG_DIR.glob("*.yaml") if "searchpath" in yaml.safe_load(path.read_text()).get("hydra", {})
)
GIVEN = ["data.train_files=/train.parquet", "data.val_files=/val.parquet"]


@functools.cache
def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        config: DictConfig = compose(name, overrides=[*GIVEN, *overrides])
    return config


def test_the_demo_is_a_primary_configuration() -> None:
    assert "demo" in PRIMARY


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


RUNS = [name for name in PRIMARY if name not in ("demo", "critic_sft")]
ON_CPU = ("cpu", "cpu_nodes")
"""Clusters for the demo's model."""

GROUPS = ("model", "cluster", "tuning", "ablation", "variant")
OPTIONS = {group: [f"{group}={o}" for o in options(group) if o not in ON_CPU] for group in GROUPS}
BOTH = [
    [f"cluster={cluster}", f"tuning={tuning}"]
    for cluster in options("cluster")
    for tuning in options("tuning")
    if cluster not in ON_CPU
]
CASES = [[name] for name in PRIMARY if name != "critic_sft"]
CASES += [["r1", option] for group in GROUPS for option in OPTIONS[group]]
# The others differ from r1 by a few values: each of them with one group, and with every group in the longer sample.
OTHERS = [
    [[run, OPTIONS[group][i % len(OPTIONS[group])]] for group in GROUPS]
    for i, run in enumerate(run for run in RUNS if run != "r1")
]
CASES += [cases[i % len(GROUPS)] for i, cases in enumerate(OTHERS)]
CASES += [["r1", *both] for both in BOTH]
CASES += [["r1", "cluster=1x2", "tuning=fast", "+device=cpu", *sizes] for sizes in ([], ["+sizes=tiny"])]
CASES += [["demo", f"cluster={cluster}"] for cluster in ON_CPU]
CASES += [["r1", "+stage=text_then_image"]]
CASES += [["demo", f"+ablation={ablation}"] for ablation in options("ablation")]
CASES += [["demo", f"+variant={variant}"] for variant in ("swap_consistency", "policy_by_critic")]
# verl imports vLLM for adapters; `tests.rollout.test_vllm_process` does that in another process.
CASES = [case for case in CASES if "tuning=lora" not in case and case[1:] != ["cluster=1x2"]]
LONGER = [case for cases in OTHERS for case in cases if case[1] not in ("tuning=lora", "cluster=1x2")]
SAMPLES: list[Any] = [*CASES, *(pytest.param(case, marks=pytest.mark.bench) for case in LONGER if case not in CASES)]


def test_the_groups_are_complete() -> None:
    assert options("cluster") == ["1x2", "1x8", "2x8", "4x8", "8x8", "cpu", "cpu_nodes"]
    assert options("tuning") == ["async", "fast", "lora", "release"]
    assert options("ablation") == ["critic_and_policy", "format_only", "policy_only", "policy_then_critic"]
    folders = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name != "__pycache__"}
    # A folder that no test composes cannot be added.
    assert folders == {"model", "cluster", "tuning", "ablation", "variant", "pixels", "device", "stage", "sizes"}
    assert options("device") == ["cpu"]
    assert options("sizes") == ["tiny"]


def accept(config: DictConfig) -> None:
    """verl's own checks and dataclasses."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = copy.deepcopy(config)  # other tests read the same composition
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    for part in ("actor", "rollout"):
        omega_conf_to_dataclass(config.actor_rollout_ref[part])
    omega_conf_to_dataclass(config.actor_rollout_ref.ref.fsdp_config)
    omega_conf_to_dataclass(config.algorithm)


@pytest.mark.slow
@pytest.mark.parametrize("case", SAMPLES, ids=" ".join)
def test_verl_accepts_it(case: list[str]) -> None:
    accept(composed(*case))


def test_verls_sft_trainer_accepts_the_supervised_ablation() -> None:
    from verl.trainer.config import CheckpointConfig
    from verl.utils.config import omega_conf_to_dataclass

    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        config = compose("critic_sft", overrides=["model.path=/m", "data.train_files=/t", "data.val_files=/v"])
    OmegaConf.resolve(config)
    engine, optim = omega_conf_to_dataclass(config.engine), omega_conf_to_dataclass(config.optim)
    assert engine.strategy == "fsdp2"
    assert (optim.lr, optim.weight_decay) == (RELEASE[f"{ACTOR}.optim.lr"], RELEASE[f"{ACTOR}.optim.weight_decay"])
    assert isinstance(omega_conf_to_dataclass(config.checkpoint), CheckpointConfig)
    pixels = OmegaConf.load(CONFIG_DIR / "pixels" / "release.yaml").data.mm_processor_kwargs
    assert config.data.mm_processor_kwargs == pixels


# The release's number (paper's public training script) and where verl 0.9.1 keeps it.
ACTOR = "actor_rollout_ref.actor"
RELEASE = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    f"{ACTOR}.use_kl_loss": True,
    f"{ACTOR}.kl_loss_type": "low_var_kl",
    f"{ACTOR}.kl_loss_coef": 1e-2,
    f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.3,
    f"{ACTOR}.clip_ratio_c": 3.0,
    f"{ACTOR}.entropy_coeff": 0,
    "data.train_batch_size": 256,
    f"{ACTOR}.ppo_mini_batch_size": 128,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4,
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
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.weight_decay": 1e-2,
    f"{ACTOR}.optim.betas": [0.9, 0.999],
    f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.0,
    f"{ACTOR}.grad_clip": 1.0,
    "trainer.total_epochs": 15,
    "trainer.save_freq": 10,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 8,
}


@pytest.mark.parametrize(("key", "number"), RELEASE.items())
def test_the_common_part_holds_the_numbers_of_the_release(key: str, number: object) -> None:
    common = OmegaConf.load(CONFIG_DIR / "critic_grpo.yaml")
    assert OmegaConf.select(common, key) == number


# FACTS of the release per base model: configuration, model, learning rate, prompt length, tensor parallelism.
BASES = [
    ("r1", "Qwen/Qwen2.5-VL-7B-Instruct", 1e-6, 6142, 2),
    ("r1_release", "Qwen/Qwen2.5-VL-7B-Instruct", 1e-6, 6142, 2),
    ("r1_plus", "russwang/ThinkLite-VL-7B", 5e-7, 6142, 2),
    ("r1_mimo_sft", "XiaomiMiMo/MiMo-VL-7B-SFT-2508", 1e-6, 6142, 2),
    ("r1_plus_mimo", "XiaomiMiMo/MiMo-VL-7B-RL-2508", 1e-6, 6142, 2),
    ("r1_qwen3_vl_8b", "Qwen/Qwen3-VL-8B-Instruct", 1e-6, 6142, 2),
]


@pytest.mark.parametrize(("name", "path", "lr", "prompt", "tensor_parallel"), BASES)
def test_each_base_has_the_numbers_of_the_release(
    name: str, path: str, lr: float, prompt: int, tensor_parallel: int
) -> None:
    config = composed(name)
    part = config.actor_rollout_ref
    assert (part.model.path, part.actor.optim.lr) == (path, lr)
    assert (config.data.max_prompt_length, part.rollout.tensor_model_parallel_size) == (prompt, tensor_parallel)
    # Everything else of the release holds for every base.
    own = {"data.max_prompt_length", f"{ACTOR}.optim.lr", "actor_rollout_ref.rollout.tensor_model_parallel_size"}
    for key, number in RELEASE.items():
        assert key in own or OmegaConf.select(config, key) == number, key
    assert config.data.mm_processor_kwargs == {"min_pixels": 262_144, "max_pixels": 4_194_304}
    assert part.rollout.engine_kwargs.vllm.mm_processor_kwargs == config.data.mm_processor_kwargs


def test_every_base_is_in_the_table() -> None:
    assert sorted(name for name, *_ in BASES) == sorted(RUNS)


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (1, 8), (2, 8), (4, 8), (8, 8)])
def test_a_cluster_has_the_size_of_its_name(nodes: int, gpus: int) -> None:
    config = composed("r1", f"cluster={nodes}x{gpus}")
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (nodes, gpus)
    assert config.critic_r1.machine.gpu_memory_gib == 80


BATCH = ["data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size"]
"""What cluster=1x2 lowers."""


def test_tuning_and_cluster_leave_the_batch_and_the_loss_of_the_release_alone() -> None:
    kept = [*BATCH, "actor_rollout_ref.rollout.n"]
    kept += [key for key in RELEASE if "clip_ratio" in key or "kl" in key or "optim" in key]
    for both in BOTH:
        config = composed("r1", *both)
        differing = {key for key in kept if OmegaConf.select(config, key) != RELEASE[key]}
        expected = {
            *(BATCH if "cluster=1x2" in both else ()),
            *([f"{ACTOR}.optim.lr"] if "tuning=lora" in both else ()),
        }
        assert differing == expected, both


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        (["cluster=1x2"], 16),
        (["cluster=1x2", "tuning=release"], 0),
        (["tuning=fast", "cluster=1x2"], 0),
        (["cluster=1x8"], 0),
    ],
)
def test_two_gpus_train_adapters_unless_told_otherwise(given: list[str], rank: int) -> None:
    for name in RUNS if len(given) == 1 else ["r1"]:
        assert composed(name, *given).actor_rollout_ref.model.lora_rank == rank


def test_adapters_have_a_rate_of_their_own() -> None:
    assert composed("r1", "tuning=lora").actor_rollout_ref.actor.optim.lr == 3e-6  # verl's LoRA script


def test_the_asynchronous_trainer_is_one_that_verl_registers() -> None:
    from verl.trainer.ppo.v1 import get_trainer_cls

    config = composed("r1", "tuning=async")
    assert get_trainer_cls(config.trainer.v1.trainer_mode).__name__ == "PPOTrainerColocateAsync"
    assert config.critic_r1.image_path == "shared"


@pytest.mark.parametrize(
    ("ablation", "response", "truth", "source", "score"),
    [
        ("format_only", "<think>a</think>\\boxed{2}", "1", "critic/x", 1.0),
        ("format_only", "\\boxed{1}", "1", "critic/x", 0.0),
        ("policy_only", "<think>a</think>\\boxed{7}", "7", "policy/x", 1.0),
        ("critic_and_policy", "<think>a</think>\\boxed{7}", "7", "policy/x", 1.0),
        ("critic_and_policy", "<think>a</think>\\boxed{1}", "1", "critic/x", 1.0),
        ("policy_then_critic", "<think>a</think>\\boxed{2}", "1", "critic/x", 0.1),
    ],
)
def test_an_ablation_pays_what_its_name_says(
    ablation: str, response: str, truth: str, source: str, score: float
) -> None:
    from verl.utils.import_utils import load_extern_object

    reward = composed("r1", f"ablation={ablation}").reward.custom_reward_function
    function = load_extern_object(reward.path, reward.name)
    options = reward.get("reward_kwargs") or {}
    assert function(source, response, truth, None, **options)["score"] == pytest.approx(score)


@pytest.mark.parametrize("run", [("r1", "variant=policy_by_critic"), ("demo", "+variant=policy_by_critic")])
def test_the_critic_of_a_policy_is_a_reward_manager_that_verl_loads(run: tuple[str, str]) -> None:
    from verl.trainer.ppo.reward import load_reward_manager

    url = "critic_r1.group_reward.url=http://localhost:8000/v1"
    config = composed(*run, url, "critic_r1.group_reward.model=critic", "+critic_r1.group_reward.max_tokens=9")
    assert type(load_reward_manager(config, None)).__name__ == "CriticGroupRewardManager"
    with pytest.raises(ValueError, match=r"critic_r1\.group_reward needs url"):
        load_reward_manager(composed(*run), None)


def test_an_unknown_key_is_refused() -> None:
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match=r"trainer\.total_trianing_steps"):
        composed("demo", "trainer.total_trianing_steps=3")


def test_the_cpu_configuration_sets_its_own_environment() -> None:
    env = composed("demo").ray_kwargs.ray_init.runtime_env.env_vars
    assert env.VERL_PLATFORM == "cpu"
    assert all(isinstance(value, str) for value in env.values())  # Ray refuses anything else
