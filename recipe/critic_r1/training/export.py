"""A training checkpoint as a Hugging Face folder that transformers, vLLM and a further run load.

verl writes weights, configuration and tokenizer into ``actor/huggingface`` of a checkpoint when ``hf_model`` is in
``actor.checkpoint.save_contents`` (it is, in our configurations). Two things in it are of the training and not of the
model: config.json names the attention of the training engine, and says bfloat16 whatever the weights are. And the
weights of a LoRA run are still in two parts. An export mends that, and is loaded and compared with the checkpoint
(`exported_model.compare`) before it takes its place.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from data_prep.files import FolderInUseError, folder_lock, write_json, write_text
from recipe.critic_r1.training import checkpoints, exported_model
from recipe.critic_r1.training.model_card import model_card

RECORD = "critic_r1_export.json"
"""Written last: what was exported, and the names of the files."""

_LOCK = ".lock"
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


class ExportError(Exception):
    """There is nothing to export, or nowhere to put it; the message says what was found and what to do."""


def model_folder(run_dir: Path, which: str = "last", step: int | None = None) -> tuple[Path, int]:
    """The Hugging Face folder of a checkpoint and its step: the last complete one, the best, or that of ``step``.

    The tracker is written after a checkpoint is complete, so a newer one may be partial.

    Raises:
        ExportError: no such checkpoint.
    """
    folder = run_dir / "checkpoints"
    if which not in ("last", "best"):
        raise ExportError(f"which is {which!r}; it can be last or best")
    try:
        if which == "best" and step is None:
            kept = checkpoints.best(folder)
            if kept is None:
                raise ExportError(
                    f"{folder / checkpoints.BEST} does not exist: no checkpoint was evaluated on held-out rows. Train "
                    "with trainer.test_freq equal to trainer.save_freq, or export --which last"
                )
            return folder / checkpoints.BEST / "huggingface", kept.step
        last = checkpoints.last_step(folder)
        if last is None:
            raise ExportError(
                f"{folder} holds no finished checkpoint ({checkpoints.TRACKER} is missing): train first, or resume"
            )
        chosen = folder / f"global_step_{last if step is None else step}"
        if not chosen.is_dir():
            raise ExportError(f"{chosen} does not exist; present are {checkpoints.present(folder)}")
        if step is not None and step > last:
            raise ExportError(f"{chosen} is newer than the last complete checkpoint (step {last}) and may be partial")
        checkpoints.refuse_links(chosen, folder)
    except checkpoints.CheckpointError as error:
        raise ExportError(str(error)) from error
    return chosen / "actor" / "huggingface", last if step is None else step


def export(run_dir: Path, out: Path, step: int | None = None, *, which: str = "last", check: bool = True) -> Path:
    """Write the model of a checkpoint to ``out``, with a model card, and return ``out``.

    A folder that an earlier export wrote is replaced once the new one is complete; any other that is not empty is
    left alone.

    Args:
        step: A step whose checkpoint is kept; None for ``which``.
        which: ``last`` complete checkpoint, or ``best`` by held-out accuracy (`checkpoints.keep_best`).
        check: Load the export and compare it with the checkpoint; takes host memory for one copy of the weights.

    Raises:
        ExportError: no such checkpoint, one without ``hf_model``, a folder that is not ours, or weights that do not
            come out as they were trained.
    """
    source, found_step = model_folder(run_dir, which, step)
    if not any(source.glob("*.safetensors")):
        raise ExportError(
            f"{source} holds no weights: train with hf_model in actor_rollout_ref.actor.checkpoint.save_contents, or "
            "merge the shards with `python -m verl.model_merger merge --backend fsdp`"
        )
    refuse_foreign(out)
    try:
        with _staged(out) as scratch:
            weights = _fill(source, scratch)
            if check:
                _compare(source, scratch)
            write_text(scratch / "README.md", model_card(run_dir, found_step, weights))
            files = sorted(path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file())
            write_json(
                scratch / RECORD,
                {"step": found_step, "weights": weights, "compared": check, "files": [*files, RECORD]},
            )
            refuse_foreign(out)
            _replace(scratch, out)
    except (exported_model.WeightsError, FolderInUseError) as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{error.filename or out}: {error.strerror or error}; nothing was exported") from error
    return out


def refuse_foreign(out: Path) -> None:
    """Raise `ExportError` unless ``out`` is absent, empty, or holds nothing but what an earlier export wrote."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ExportError(f"{out} is not a folder; choose another")
    if not out.is_dir():
        return
    here = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8")) if RECORD in here else {"files": []}
        ours = set(record["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = set()
    if foreign := sorted(here - ours):
        raise ExportError(
            f"{out} holds {len(foreign)} file(s) that no export wrote, e.g. {foreign[0]}; nothing was changed. Choose "
            "an empty or new folder"
        )


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out`` that one export at a time holds; gone afterwards."""
    place = out.with_name(f".{out.name}.partial")
    if place.is_symlink() or (place.exists() and not (place / _LOCK).is_file()):
        raise ExportError(f"{place} is in the way and is not ours; move it away")
    with folder_lock(place, f"critic-r1 export --out {out}"):
        scratch = place / "model"
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed export left
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            (place / _LOCK).unlink(missing_ok=True)
            if not any(place.iterdir()):
                place.rmdir()


def _replace(scratch: Path, out: Path) -> None:
    """Put the finished folder into its place; an earlier export gives way only now."""
    earlier = scratch.with_name("earlier")
    if out.is_dir():
        out.rename(earlier)
    try:
        scratch.rename(out)
    except OSError:
        if earlier.is_dir():
            earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _fill(source: Path, scratch: Path) -> str:
    """Write the model of ``source`` to ``scratch``; returns what the weights are, in words."""
    adapters = exported_model.has_adapters(source)
    for path in source.rglob("*"):
        is_weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.is_file() and not (adapters and is_weights):
            target = scratch / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    dtype = str(exported_model.dtype_of(source)).removeprefix("torch.")
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{source / 'config.json'} is not JSON ({error}): export another step") from error
    write_json(scratch / "config.json", _plain(config, dtype), indent=2)
    if not adapters:
        return dtype
    rank, alpha = exported_model.adapter_settings(source)
    weights = exported_model.merged(exported_model.read_weights(source), rank, alpha)
    exported_model.save(weights, scratch, scratch)
    # transformers has written the configuration again.
    write_json(scratch / "config.json", _plain(config, dtype), indent=2)
    return f"{dtype}, LoRA adapters of rank {rank} and alpha {alpha} merged"


def _compare(source: Path, scratch: Path) -> None:
    needed, free = exported_model.bytes_needed(source, scratch), psutil.virtual_memory().available
    if needed > free:
        raise ExportError(
            f"comparing the export with the checkpoint takes {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} are "
            "free. Run it on a larger machine, or with --no-check"
        )
    exported_model.compare(source, scratch)


def _plain(config: Any, dtype: str) -> Any:
    """A configuration with the type of the weights, and without the training's attention, in all its parts."""
    if isinstance(config, list):
        return [_plain(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    kept = {key: _plain(value, dtype) for key, value in config.items() if key not in _ATTENTION}
    return {key: dtype if key in ("dtype", "torch_dtype") else value for key, value in kept.items()}
