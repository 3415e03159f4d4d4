"""The two logs of a run that survive a resume: one line per step, and one line per rollout.

verl's own ``file`` logger truncates on resume, and its rollout dump lacks the parts of the reward. Lines are appended
and flushed one step at a time; `resume_after` drops what lies after the checkpoint that a run resumes from,
half-written last lines included.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from recipe.critic_r1.training.step_metrics import Rollout

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


class RunLog:
    """Appends to ``metrics.jsonl`` and ``samples.jsonl`` in ``folder``."""

    def __init__(self, folder: Path, *, samples: bool = True) -> None:
        self.folder = folder
        self._samples = samples
        folder.mkdir(parents=True, exist_ok=True)

    def resume_after(self, step: int) -> None:
        """Keep the lines of steps 1 .. ``step``, so that the next line is of step ``step + 1``."""
        for name in (METRICS, SAMPLES):
            _cut_after(self.folder / name, step)

    def write(self, step: int, metrics: dict[str, Any], rollouts: Sequence[Rollout]) -> None:
        """Append the step's samples, then its metrics: a metrics line means that the step's samples are complete."""
        if self._samples:
            _append(self.folder / SAMPLES, (_sample(step, rollout) for rollout in rollouts))
        values = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        _append(self.folder / METRICS, [{"step": step, "data": values}])


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _sample(step: int, rollout: Rollout) -> dict[str, Any]:
    info = rollout.extra_info
    return {
        "step": step,
        "uid": rollout.uid,
        "sample": rollout.sample,
        "pair_id": info.get("pair_id"),
        "order": info.get("order"),
        "data_source": rollout.data_source,
        "image": info.get("image_blake3"),
        "prompt": rollout.prompt,
        "response": rollout.response,
        "response_tokens": rollout.response_tokens,
        "ground_truth": rollout.ground_truth,
        **rollout.reward,
    }


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False, default=_encode) + "\n" for record in records]
    with _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as file:
        file.write("".join(lines).encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _open(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open one of the logs; a symbolic link in its place is an error, not a file to write through."""
    return open(path, mode, opener=lambda name, _: os.open(name, flags | os.O_NOFOLLOW, 0o644))


def _encode(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a broken line raises ValueError that names file and line.

    A last line without a newline is still being written, or its writer was killed; it is left out.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}, line {number}: not JSON ({error}); delete the line and run again") from None


def _cut_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    end, problem = 0, None
    with _open(path, os.O_RDWR, "r+b") as file:
        for number, line in enumerate(file, 1):
            try:
                record_step = int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):
                if line.endswith(b"\n"):  # a line cut short at the very end is what a kill leaves
                    problem = f"{path}, line {number} is damaged"
                break
            if not line.endswith(b"\n") or record_step > step:
                break
            end += len(line)
        size = os.fstat(file.fileno()).st_size
        if problem is not None:
            print(f"critic-r1: {problem}; it and the {size - end:,} bytes from there on are dropped", file=sys.stderr)
        file.truncate(end)
