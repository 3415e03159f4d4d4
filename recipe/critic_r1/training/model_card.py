"""The README of an exported model: base, settings and held-out accuracy, as the run recorded them."""

from pathlib import Path
from typing import Any

import yaml

from recipe.critic_r1.training import checkpoints
from recipe.critic_r1.training.run_log import read_lines

# Of the configuration that a run saved: what somebody who meets the model alone would ask for.
_KEYS = (
    "data.train_files",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.seed",
    "reward.custom_reward_function.path",
    "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
)


def model_card(run_dir: Path, step: int, weights: str) -> str:
    """The card of the model of ``step``; ``weights`` says what the weights are."""
    saved = run_dir / "train" / "config.yaml"
    config = yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    base = _at(config, "actor_rollout_ref.model.path") or "not recorded"
    # Only a Hub id means something to others; a folder does not.
    front = {"library_name": "transformers", "tags": ["critic", "grpo", "verl", "critic-r1"]}
    if isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/", "~")):
        front["base_model"] = base
    metrics = run_dir / "train" / "metrics.jsonl"
    records = read_lines(metrics) if metrics.exists() else iter(())
    at_step: dict[str, float] = next((record["data"] for record in records if record["step"] == step), {})
    accuracies = [f"- `{name}`: {value:.4f}" for name, value in checkpoints.held_out(at_step).items()]
    settings = [(key, _at(config, key)) for key in _KEYS]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        "",
        f"# {_at(config, 'trainer.experiment_name') or run_dir.name}, step {step}",
        "",
        "A vision-language critic, trained with GRPO on preference pairs by critic-r1.",
        f"Base: `{base}`. Weights: {weights}.",
        "The licence of the base model and those of the training data apply.",
        "",
        "## Held-out accuracy at this step",
        "",
        *(accuracies or ["Not evaluated during training."]),
        "",
        "## Settings",
        "",
        *(f"- `{key}`: {value}" for key, value in settings if value is not None),
        "",
        "## Use",
        "",
        "`critic-r1 serve FOLDER`, or `vllm serve FOLDER` on a GPU; then `critic-r1 judge` or `critic-r1 best-of-n`",
        "with its address. The model thinks between `<think>` tags and puts its verdict into `\\boxed{1}` or",
        "`\\boxed{2}`.",
        "",
    ]
    return "\n".join(lines)


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
