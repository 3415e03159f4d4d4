"""A training checkpoint as a Hugging Face folder that transformers, vLLM and a further run load.

verl writes weights, configuration and tokenizer into ``actor/huggingface`` of a checkpoint when ``hf_model`` is in
``actor.checkpoint.save_contents`` (it is, in our configurations). The weights keep the type they were trained in, but
the configuration beside them always says bfloat16; here it is made to say what the weights are.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from recipe.critic_r1.training import checkpoints
from recipe.critic_r1.training.run_log import read_lines


class ExportError(Exception):
    """There is no whole checkpoint to export; the message says what was found and what to do."""


def model_folder(run_dir: Path, which: str = "last", step: int | None = None) -> tuple[Path, int]:
    """The Hugging Face folder of a checkpoint and its step: the last whole one, the best, or that of ``step``.

    The tracker file is written after a checkpoint is whole, so a checkpoint that it does not name may be partial.
    """
    folder = run_dir / "checkpoints"
    if which not in ("last", "best"):
        raise ExportError(f"which is {which!r}; it can be last or best")
    if which == "best" and step is None:
        kept = checkpoints.best(folder)
        if kept is None:
            raise ExportError(
                f"{folder / checkpoints.BEST} does not exist: no checkpoint was evaluated on held-out rows. Train with "
                "trainer.test_freq equal to trainer.save_freq, or export --which last"
            )
        return folder / checkpoints.BEST / "huggingface", kept.step
    try:
        last = checkpoints.last_step(folder)
    except checkpoints.TrackerError as error:
        raise ExportError(str(error)) from error
    if last is None:
        raise ExportError(
            f"{folder} holds no finished checkpoint ({checkpoints.TRACKER} is missing): train first, or resume"
        )
    chosen = folder / f"global_step_{last if step is None else step}"
    if not chosen.is_dir():
        present = sorted(path.name for path in folder.glob("global_step_*"))
        raise ExportError(f"{chosen} does not exist; kept are {', '.join(present) or 'none'}")
    if step is not None and step > last:
        raise ExportError(f"{chosen} is newer than the last whole checkpoint (step {last}) and may be partial")
    return chosen / "actor" / "huggingface", last if step is None else step


def export(run_dir: Path, out: Path, step: int | None = None, *, which: str = "last") -> Path:
    """Write the model of a checkpoint to ``out`` (replaced when it exists), with a model card, and return ``out``.

    Args:
        step: A step whose checkpoint is kept; None for ``which``.
        which: ``last`` whole checkpoint, or ``best`` by held-out accuracy (`checkpoints.keep_best`).

    Raises:
        ExportError: no such checkpoint, or one without ``hf_model``.
    """
    from safetensors import safe_open

    source, found_step = model_folder(run_dir, which, step)
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise ExportError(
            f"{source} holds no weights: train with hf_model in actor_rollout_ref.actor.checkpoint.save_contents, or "
            "merge the shards with `python -m verl.model_merger merge --backend fsdp`"
        )
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, scratch)
    with safe_open(weights[0], framework="pt") as file:
        dtype = str(file.get_tensor(next(iter(file.keys()))).dtype).removeprefix("torch.")
    config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
    _set_dtype(config, dtype)
    (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (scratch / "README.md").write_text(model_card(run_dir, found_step, dtype), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)
    return out


# Of the configuration that a run saved; what somebody who meets the model alone would ask for.
_CARD_KEYS = (
    "data.train_files",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.seed",
    "reward.custom_reward_function.path",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
)


def model_card(run_dir: Path, step: int, dtype: str) -> str:
    """The README of an exported model: base, settings and held-out accuracy, as the run recorded them."""
    saved = run_dir / "train" / "config.yaml"
    config = yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    base = _at(config, "actor_rollout_ref.model.path") or "not recorded"
    # A folder is nobody else's base model; a Hub id is.
    front = {"library_name": "transformers", "tags": ["critic", "grpo", "verl", "critic-r1"]}
    if isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/", "~")):
        front["base_model"] = base
    metrics = run_dir / "train" / "metrics.jsonl"
    records = read_lines(metrics) if metrics.exists() else iter(())
    at_step: dict[str, float] = next((record["data"] for record in records if record["step"] == step), {})
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        "",
        f"# {_at(config, 'trainer.experiment_name') or run_dir.name}, step {step}",
        "",
        "A vision-language critic, trained with GRPO on preference pairs by critic-r1.",
        f"Base: `{base}`. Weights: {dtype}.",
        "The licence of the base model and those of the training data apply.",
        "",
        "## Held-out accuracy at this step",
        "",
        *(f"- `{name}`: {value:.4f}" for name, value in checkpoints.held_out(at_step).items()),
    ]
    if not checkpoints.held_out(at_step):
        lines.append("Not evaluated during training.")
    settings = [(key, _at(config, key)) for key in _CARD_KEYS]
    lines += ["", "## Settings", "", *(f"- `{key}`: {value}" for key, value in settings if value is not None)]
    lines += [
        "",
        "## Use",
        "",
        "`critic-r1 serve FOLDER`, or `vllm serve FOLDER` on a GPU; then `critic-r1 judge` or `critic-r1 best-of-n`",
        "with its address. The model thinks between `<think>` tags and puts its verdict into `\\boxed{1}` or",
        "`\\boxed{2}`.",
        "",
    ]
    return "\n".join(lines)


def _at(config: dict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _set_dtype(config: dict, dtype: str) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            config[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)


def main(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="Where the model goes.")],
    step: Annotated[int | None, typer.Option(help="Training step; `--which` decides without it.")] = None,
    which: Annotated[str, typer.Option(help="last, or best by held-out accuracy.")] = "last",
) -> None:
    """Export a checkpoint as a Hugging Face folder."""
    try:
        print(export(run_dir, out, step, which=which))
    except ExportError as error:
        raise SystemExit(f"export: {error}") from error


if __name__ == "__main__":
    typer.run(main)
