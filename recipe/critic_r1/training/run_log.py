"""The two logs of a run that survive a resume: one line a step, and one line a rollout.

verl's own ``file`` logger truncates on resume, and its rollout dump has no parts of the reward. Lines are appended and
flushed a step at a time; `resume_after` cuts off what lies beyond the checkpoint that a run resumes from, half-written
last lines included.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
        """Append the step's samples, then its metrics: a metrics line says that the step's samples are whole."""
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
    with path.open("ab") as file:
        file.write("".join(lines).encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _encode(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a broken line raises ValueError that names file and line.

    A last line without its end is being written, or its writer was killed: it is not a record yet, and left out.
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
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                break  # written by a process that died in the middle of the line
            if not line.endswith(b"\n") or record["step"] > step:
                break
            end += len(line)
    os.truncate(path, end)
