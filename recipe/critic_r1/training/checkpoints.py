"""A run's checkpoints: the last whole one, and the best by held-out accuracy.

``checkpoints/global_step_N`` are verl's; ``latest_checkpointed_iteration.txt`` names the last whole one. Policy quality
falls late in training, and verl keeps only the newest few, so the Hugging Face folder of the best step is kept beside
them as ``checkpoints/best``, with ``best.json`` saying which step it is of and why.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TRACKER = "latest_checkpointed_iteration.txt"
BEST = "best"
BEST_RECORD = "best.json"


class TrackerError(ValueError):
    """The tracker file is unreadable; the message names it and says what to do."""


@dataclass(frozen=True)
class Best:
    """Which step is the best so far."""

    step: int
    accuracy: float
    """Mean over data sources, in [0, 1]."""
    metrics: dict[str, float]
    """The accuracies that it is the mean of, under verl's names."""


def last_step(folder: Path) -> int | None:
    """The step of the last whole checkpoint in ``folder``; None when there is none.

    Raises:
        TrackerError: the tracker holds no number.
    """
    try:
        text = (folder / TRACKER).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    try:
        return int(text)
    except ValueError:
        raise TrackerError(
            f"{folder / TRACKER} holds {text!r} and not a step: write the number of the last whole checkpoint into it, "
            "or delete it to start over"
        ) from None


def repair(folder: Path) -> int | None:
    """Fill in a tracker file that a killed process left empty; returns the step written, None when nothing was to do.

    verl empties the file, then writes the number into it, after all else of a checkpoint is written: when the file is
    empty, the newest checkpoint with its ``data.pt``, which is written just before, is whole.
    """
    tracker = folder / TRACKER
    if not tracker.exists() or tracker.read_text(encoding="utf-8").strip():
        return None
    whole = [int(path.parent.name.rsplit("_", 1)[1]) for path in folder.glob("global_step_*/data.pt")]
    if not whole:
        tracker.unlink()
        return None
    _write(tracker, str(max(whole)))
    return max(whole)


def best(folder: Path) -> Best | None:
    """What is kept as the best; None when no step was evaluated yet."""
    try:
        return Best(**json.loads((folder / BEST / BEST_RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


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
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, scratch / "huggingface", copy_function=_link)
    (scratch / BEST_RECORD).write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    if kept is not None:
        (folder / BEST).rename(replaced)
    scratch.rename(folder / BEST)
    shutil.rmtree(replaced, ignore_errors=True)
    return found


def forget_after(folder: Path, step: int) -> None:
    """Drop what is kept as the best when it is of a later step: the run is going to make that step again."""
    kept = best(folder)
    if kept is not None and kept.step > step:
        shutil.rmtree(folder / BEST)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
