"""A training checkpoint as a Hugging Face folder that transformers, vLLM and a further run load.

verl writes weights, configuration and tokenizer into ``actor/huggingface`` of a checkpoint when ``hf_model`` is in
``actor.checkpoint.save_contents`` (it is, in our configurations). The weights keep the type they were trained in, but
the configuration beside them always says bfloat16; here it is made to say what the weights are.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

TRACKER = "latest_checkpointed_iteration.txt"


class ExportError(Exception):
    """There is no whole checkpoint to export; the message says what was found and what to do."""


def checkpoint_of(run_dir: Path, step: int | None = None) -> Path:
    """The folder ``global_step_N`` of a run: the last whole one, or that of ``step``.

    The tracker file is written after a checkpoint is whole, so a checkpoint that it does not name may be partial.
    """
    folder = run_dir / "checkpoints"
    tracker = folder / TRACKER
    if not tracker.exists():
        raise ExportError(f"{folder} holds no finished checkpoint ({TRACKER} is missing): train first, or resume")
    last = int(tracker.read_text().strip())
    chosen = folder / f"global_step_{last if step is None else step}"
    if not chosen.is_dir():
        kept = sorted(path.name for path in folder.glob("global_step_*"))
        raise ExportError(f"{chosen} does not exist; kept are {', '.join(kept) or 'none'}")
    if step is not None and step > last:
        raise ExportError(f"{chosen} is newer than the last whole checkpoint (step {last}) and may be partial")
    return chosen


def export(run_dir: Path, out: Path, step: int | None = None) -> Path:
    """Write the model of a checkpoint to ``out`` (replaced when it exists) and return ``out``.

    Raises:
        ExportError: no whole checkpoint, or one without ``hf_model``.
    """
    from safetensors import safe_open

    source = checkpoint_of(run_dir, step) / "actor" / "huggingface"
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
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)
    return out


def _set_dtype(config: dict, dtype: str) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            config[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)


def main(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="Where the model goes.")],
    step: Annotated[int | None, typer.Option(help="Training step; the last checkpoint without it.")] = None,
) -> None:
    """Export a checkpoint as a Hugging Face folder."""
    try:
        print(export(run_dir, out, step))
    except ExportError as error:
        raise SystemExit(f"export: {error}") from error


if __name__ == "__main__":
    typer.run(main)
