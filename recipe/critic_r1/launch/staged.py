"""Training in stages: consecutive runs on their own files, each starting from the previous one's model.

`+stage=text_then_image` names the stages. Each is an ordinary run in its own folder, with its own checks, restarts,
resume and metrics. A finished stage has an exported model and a mark: the same command skips it, and resumes the stage
that was interrupted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data_prep.files import write_json

MARK = "stage.json"
"""Written into the folder of a stage when its model is exported."""

OWN = ("data.train_files", "data.val_files", "trainer.default_local_dir")
"""Keys that each stage sets itself."""


class StageError(ValueError):
    """Stages that cannot be run as they are configured."""


Call = Callable[[Sequence[str]], int]
"""Runs a command and returns its exit status."""


def stages_of(config: DictConfig) -> dict[str, Any]:
    """Name -> files of the stages of a configuration, in order; empty for an ordinary run."""
    found: dict[str, Any] = OmegaConf.to_container(config.critic_r1.get("stages") or OmegaConf.create())  # type: ignore[assignment]
    return found


def train_in_stages(config: DictConfig, config_name: str, overrides: Sequence[str], call: Call | None = None) -> int:
    """Run all stages; returns the exit status of the first that fails, or 0.

    Raises:
        StageError: a file of any stage is not set or missing, or a key that each stage sets itself is overridden.
    """
    stages = stages_of(config)
    shared = [word for word in overrides if not _of_stages(word)]
    if own := [word for word in shared if _key(word) in OWN]:
        raise StageError(f"{own[0]}: each stage has its own; give critic_r1.stages.NAME.train_files and val_files")
    for name, files in stages.items():
        for key in ("train_files", "val_files"):
            _check(f"critic_r1.stages.{name}.{key}", files.get(key))
    shared = [word for word in shared if _key(word) != "critic_r1.run_dir"]
    folder, run = Path(config.critic_r1.run_dir).expanduser().absolute(), call or _run
    model: Path | None = None
    for number, (name, files) in enumerate(stages.items()):
        here, exported = folder / name, folder / f"{name}_model"
        if (here / MARK).is_file():
            print(f"critic-r1: stage {name} is done; remove {here / MARK} to run it again")
            model = exported
            continue
        words = [*shared, f"critic_r1.run_dir={here}"]
        words += [f"data.{key}={json.dumps(files[key])}" for key in ("train_files", "val_files")]
        words += [f"actor_rollout_ref.model.path={model}"] if model else []
        words += [str(word) for word in files.get("overrides") or []]
        if status := run([sys.executable, "-m", "recipe.critic_r1.train", "--config-name", config_name, *words]):
            return status
        if number + 1 < len(stages):
            command = [sys.executable, "-m", "recipe.critic_r1.cli", "export", str(here), "--out", str(exported)]
            if status := run(command):
                return status
            model = exported
        write_json(here / MARK, {"stage": name, "overrides": words, "model": str(model) if model else None})
    return 0


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _of_stages(word: str) -> bool:
    return _key(word) == "stage" or _key(word).startswith("critic_r1.stages")


def _check(key: str, value: Any) -> None:
    if not value:
        raise StageError(f"{key} has no value: give it on the command line")
    for path in [value] if isinstance(value, str) else value:
        if not Path(os.path.expanduser(str(path))).exists():
            raise StageError(f"{key}: {path} does not exist; all files are looked for before the first stage begins")
