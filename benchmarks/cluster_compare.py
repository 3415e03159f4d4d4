"""Two runs of one configuration, compared step by step and rollout by rollout from the logs that they left."""

import math
from pathlib import Path
from typing import Any

from recipe.critic_r1.training.run_log import METRICS, SAMPLES, read_lines

COMPARED = (
    "critic_r1/accuracy",
    "critic_r1/score",
    "critic/score/mean",
    "actor/grad_norm",
    "actor/pg_loss",
    "actor/kl_loss",
    "response_length/mean",
)

TOLERANCE = {"equal_responses": 0.99, "relative": 1e-3}
"""At least this share of responses equal, and metrics of steps with equal responses within this relative difference:
two orders above what summing float32 in another order makes, far below the difference of two batches."""


Rollout = tuple[int, str, int, int]
"""Step, pair, order, number."""


def responses(folder: Path) -> dict[Rollout, str]:
    """The response of each rollout; raises when a rollout stands in the log twice."""
    found: dict[Rollout, str] = {}
    for record in read_lines(folder / "train" / SAMPLES):
        key = (record["step"], record["pair_id"], record["order"], record["sample"])
        if key in found:
            raise RuntimeError(f"{folder}: rollout {key} was logged twice")
        found[key] = record["response"]
    return found


def compare(one: Path, other: Path, steps: int) -> dict[str, Any]:
    """Two runs of ``steps`` steps, step by step and rollout by rollout."""
    metrics = [{r["step"]: r["data"] for r in read_lines(folder / "train" / METRICS)} for folder in (one, other)]
    logged = [[r["step"] for r in read_lines(folder / "train" / METRICS)] for folder in (one, other)]
    drawn = [responses(folder) for folder in (one, other)]
    common = drawn[0].keys() & drawn[1].keys()
    equal = {key for key in common if drawn[0][key] == drawn[1][key]}
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        here = [key for key in common if key[0] == step]
        values = {name: [m[step][name] for m in metrics] for name in COMPARED}
        rows.append(
            {
                "step": step,
                "rollouts": len(here),
                "equal_responses": sum(key in equal for key in here),
                "values": values,
                "relative_difference": {name: _relative(*pair) for name, pair in values.items()},
            }
        )
    whole = [step for step in rows if step["equal_responses"] == step["rollouts"]]
    largest = {name: max((s["relative_difference"][name] for s in whole), default=math.nan) for name in COMPARED}
    share = len(equal) / max(len(common), 1)
    return {
        "steps_logged": logged,
        "each_step_once": all(found == list(range(1, steps + 1)) for found in logged),
        "rollouts": [len(d) for d in drawn],
        "rows_of_one_run_only": len({key[:3] for key in drawn[0].keys() ^ drawn[1].keys()}),
        "equal_responses": share,
        "steps_with_equal_responses": len(whole),
        "largest_relative_difference": largest,
        "within_tolerance": share >= TOLERANCE["equal_responses"]
        and all(value <= TOLERANCE["relative"] for value in largest.values()),
        "steps": rows,
    }


def _relative(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))
