"""The environment of lmms-eval: made once by uv, apart from ours.

The tool asks for versions that our own stack cannot have (an older `av`, antlr 4.7, its own wandb), and ours must not
move with it. Its pins are in requirements/lmms-eval.txt and are installed as they stand, without a resolver. A folder
is named after its pins, so that other pins make another environment; a marker, written last, says that one is whole,
and an install that was stopped goes on from what uv has in its cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).parents[3] / "requirements" / "lmms-eval.txt"

MARKER = "critic-r1-ready"

PROBE = "import lmms_eval.evaluator, lmms_eval.models.chat.async_openai"
"""What must import in a whole environment: the evaluator, and the model that asks a server."""


@dataclass(frozen=True)
class Environment:
    """A whole environment: `python` is its interpreter, `new` whether this call made it."""

    python: Path
    new: bool = False


def default_cache() -> Path:
    """The user's cache folder for what this project makes once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "critic-r1"


def prepare(
    cache: Path, *, pins: Path = PINS, say: Callable[[str], None] = lambda line: None, probe: str = PROBE
) -> Environment:
    """The environment for these pins, made when there is none. A second caller waits for the first.

    Args:
        cache: folder that holds environments.
        pins: a requirements file with every package pinned.
        say: told what happens, a line at a time; uv shows its own progress.
        probe: Python code that must run in the finished environment.

    Raises:
        FileNotFoundError: no pins, or no uv. RuntimeError: a step failed; the message has its output.
    """
    if not pins.is_file():
        raise FileNotFoundError(f"{pins} is missing: lmms-eval's pins are in requirements/ of a clone; give --pins")
    folder = cache / f"lmms-eval-{_name(pins)}"
    python, marker = folder / "bin" / "python", folder / MARKER
    if marker.is_file():
        return Environment(python)
    cache.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"another process is preparing {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.is_file():
            return Environment(python)
        uv = _uv()
        say(f"preparing lmms-eval in {folder}: once, about 6 GB on disk, linked from uv's cache where it can be")
        if not python.exists():
            _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], "making the environment")
        _run([uv, "pip", "install", "--python", str(python), "--no-deps", "--requirement", str(pins)], "installing")
        say("trying its imports")
        _run([str(python), "-c", probe], "importing lmms-eval", quiet=True)
        marker.write_text(f"{pins.name}\n", encoding="utf-8")
    return Environment(python, new=True)


def _name(pins: Path) -> str:
    """Twelve hex digits for the pins and the Python version; comments do not count."""
    lines = [line.split("#")[0].strip() for line in pins.read_text(encoding="utf-8").splitlines()]
    content = "\n".join([f"python {sys.version_info[0]}.{sys.version_info[1]}", *filter(None, lines)])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise FileNotFoundError("uv is not installed: `pip install uv`, then run the same command again")
    return found


def _run(command: list[str], what: str, *, quiet: bool = False) -> None:
    """uv writes its progress to stderr, where the user sees it; what a quiet command wrote is shown when it failed."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None
    )
    if done.returncode:
        said = (done.stdout or b"").decode(errors="replace")[-2000:]
        raise RuntimeError(f"{what} failed with status {done.returncode}: run the same command again. {said}".rstrip())
