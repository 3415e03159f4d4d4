"""A run's checkpoints: the last complete one, and the best by held-out accuracy.

``checkpoints/global_step_N`` are verl's; ``latest_checkpointed_iteration.txt``, the tracker, names the last complete
one. Policy quality falls late in training, and verl keeps only the newest few, so the Hugging Face folder of the best
step is kept beside them as ``checkpoints/best``, with ``best.json`` saying which step it is and why.

A run folder may come from elsewhere, or a kill may have cut a file short. So nothing here follows a symbolic link out
of the folder, and a tracker or record that makes no sense is an error that names it.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.files import write_json, write_text

TRACKER = "latest_checkpointed_iteration.txt"
BEST = "best"
BEST_RECORD = "best.json"

_STEP = re.compile(r"[0-9]{1,12}", re.ASCII)
_LONGEST_RECORD = 1_000_000
"""Bytes of a tracker or best.json that are read."""


class CheckpointError(ValueError):
    """A tracker, record or checkpoint is damaged; the message names it and says what to do."""


@dataclass(frozen=True)
class Best:
    """The best step so far."""

    step: int
    accuracy: float
    """Mean over data sources, in [0, 1]."""
    metrics: dict[str, float]
    """The accuracies behind the mean, under verl's names."""


@dataclass(frozen=True)
class Sharding:
    """How the shards of a checkpoint were written."""

    workers: int
    fsdp: int
    """1 or 2."""


def last_step(folder: Path) -> int | None:
    """The step of the last complete checkpoint in ``folder``; None when there is none.

    Raises:
        CheckpointError: the tracker is not a plain file with a step in it.
    """
    text = _read(folder / TRACKER)
    if text is None:
        return None
    if not _STEP.fullmatch(text.strip()):
        raise CheckpointError(
            f"{folder / TRACKER} holds {text.strip()[:40]!r} and not a step: write the number of the last complete "
            "checkpoint into it, or delete it to start over"
        )
    return int(text)


def resume_point(folder: Path) -> Path | None:
    """The checkpoint that a run in ``folder`` resumes from, looked over; None when it starts from the beginning.

    Raises:
        CheckpointError: the tracker names a checkpoint that is missing or incomplete, or one that a link leads out of
            ``folder``. verl would start over without a word.
    """
    step = last_step(folder)
    if step is None:
        return None
    checkpoint = folder / f"global_step_{step}"
    remedy = (
        f"put the step of a complete checkpoint into {folder / TRACKER} (present: {present(folder)}), or delete that "
        "file to start over"
    )
    if not checkpoint.is_dir():
        raise CheckpointError(f"{folder / TRACKER} names step {step}, but {checkpoint} does not exist: {remedy}")
    refuse_links(checkpoint, folder)
    empty = [path.name for path in checkpoint.rglob("*.pt") if path.stat().st_size == 0]
    if not (checkpoint / "data.pt").is_file() or empty:
        lacking = f"{', '.join(sorted(empty))} is empty" if empty else "data.pt is missing"
        raise CheckpointError(f"{checkpoint} is incomplete ({lacking}): {remedy}")
    return checkpoint


def sharding(checkpoint: Path) -> Sharding | None:
    """How the actor's shards were written, as verl recorded it; None when it did not.

    Raises:
        CheckpointError: the record is not one of verl's.
    """
    path = checkpoint / "actor" / "fsdp_config.json"
    text = _read(path)
    if text is None:
        return None
    try:
        record = json.loads(text)
        return Sharding(int(record["world_size"]), int(record["FSDP_version"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): resume from another checkpoint") from error


def present(folder: Path) -> str:
    """The names of the checkpoints in ``folder``, for messages."""
    return ", ".join(sorted(path.name for path in folder.glob("global_step_*"))) or "none"


def refuse_links(path: Path, root: Path) -> None:
    """Raise `CheckpointError` when ``path``, or a file below it, is a symbolic link that leads out of ``root``."""
    inside = root.resolve()
    for found in (path, *path.rglob("*")):
        if found.is_symlink() and not found.resolve().is_relative_to(inside):
            raise CheckpointError(
                f"{found} is a symbolic link that leads out of {root}; it is not followed. Copy what it names into the "
                "folder, or remove the link"
            )


def interrupted(folder: Path) -> bool:
    """Whether a kill left the tracker empty; `repair` fills it in."""
    text = _read(folder / TRACKER)
    return text is not None and not text.strip()


def repair(folder: Path) -> int | None:
    """Fill in a tracker that a killed process left empty; returns the step written, None when there was nothing to do.

    verl empties the file and then writes the number, after everything else of a checkpoint. So when the tracker is
    empty, the newest checkpoint with a ``data.pt``, which is written just before, is complete.
    """
    tracker = folder / TRACKER
    if not interrupted(folder):
        return None
    found = (re.fullmatch(r"global_step_([0-9]{1,12})", path.parent.name) for path in folder.glob("*/data.pt"))
    complete = [int(match[1]) for match in found if match]
    if not complete:
        tracker.unlink()
        return None
    write_text(tracker, str(max(complete)))
    return max(complete)


def best(folder: Path) -> Best | None:
    """What is kept as the best; None when no step was evaluated yet.

    Raises:
        CheckpointError: best.json is damaged.
    """
    path = folder / BEST / BEST_RECORD
    refuse_links(folder / BEST, folder)
    text = _read(path)
    if text is None:
        return None
    try:
        found = Best(**json.loads(text))
        return Best(int(found.step), float(found.accuracy), {k: float(v) for k, v in found.metrics.items()})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete {folder / BEST} to forget the best step") from error


def held_out(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The held-out accuracies among a step's metrics: those of critic rows, or of all rows when there are none."""
    found = {name: float(value) for name, value in metrics.items() if name.startswith("val-core/") and "/mean@" in name}
    return {name: value for name, value in found.items() if name.startswith("val-core/critic/")} or found


def keep_best(folder: Path, step: int, metrics: Mapping[str, Any]) -> Best | None:
    """Keep the model of checkpoint ``step`` when it is better than what is kept; returns its record if so.

    Files are hard links where the file system has them, so that a copy costs nothing. `forget_after` must be called
    when a run goes back to an earlier step, before verl writes those files again.
    """
    accuracies = held_out(metrics)
    source = folder / f"global_step_{step}" / "actor" / "huggingface"
    if not accuracies or not source.is_dir():
        return None
    found = Best(step, sum(accuracies.values()) / len(accuracies), accuracies)
    kept = best(folder)
    if kept is not None and kept.accuracy >= found.accuracy:
        return None
    scratch, replaced = folder / f".{BEST}.partial", folder / f".{BEST}.replaced"
    for leftover in (scratch, replaced):
        _remove(leftover)
    # verl writes the adapter's alpha beside the folder; without it the adapters cannot be merged later.
    shutil.copytree(source, scratch / "huggingface", copy_function=_link, symlinks=True)
    if (meta := source.with_name("lora_train_meta.json")).is_file():
        _link(str(meta), str(scratch / meta.name))
    write_json(scratch / BEST_RECORD, asdict(found))
    if (folder / BEST).exists():
        (folder / BEST).rename(replaced)
    scratch.rename(folder / BEST)
    _remove(replaced)
    return found


def forget_after(folder: Path, step: int) -> None:
    """Drop the best when it is of a later step: the run is going to make that step again."""
    kept = best(folder)
    if kept is not None and kept.step > step:
        _remove(folder / BEST)


def _read(path: Path) -> str | None:
    """The start of a small file; None when there is none. A link or a device is refused, not opened."""
    try:
        if path.is_symlink() or not path.is_file():
            if not os.path.lexists(path):
                return None
            raise CheckpointError(f"{path} is not a plain file; remove it, it is not one that a run writes")
        with path.open("rb") as file:
            return file.read(_LONGEST_RECORD).decode("utf-8", "replace")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error


def _remove(path: Path) -> None:
    """Remove one of our folders; of a link, the link itself."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target, follow_symlinks=False)
