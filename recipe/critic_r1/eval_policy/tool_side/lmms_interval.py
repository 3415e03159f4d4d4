"""The interval of a figure that is more than a mean over questions, as JSON: run in the tool's environment.

    ENVIRONMENT/bin/python lmms_interval.py TASK METRIC SAMPLES.jsonl [--include FOLDER] [--seed 0]

Questions are drawn anew, and the tool's own aggregation of the task is asked for the figure of each draw. Its figure of
all questions is given as well, so that the caller can see that it is the one that the tool reported.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DRAWS = 500
"""The ends of a 95 % interval then vary by about 0.15 standard errors from seed to seed."""


def interval(records: Sequence[Any], aggregate: Callable[[list[Any]], float], seed: int) -> dict[str, float]:
    """Percentiles and standard deviation of the figure over draws of the records."""
    drawn = random.Random(seed)
    figures = sorted(float(aggregate(drawn.choices(records, k=len(records)))) for _ in range(DRAWS))
    cuts = statistics.quantiles(figures, n=40, method="inclusive")
    return {
        "value": float(aggregate(list(records))),
        "low": cuts[0],
        "high": cuts[-1],
        "stderr": statistics.stdev(figures),
    }


def aggregation(task: str, metric: str, include: str | None) -> Callable[[list[Any]], float]:
    """The function that the task's yaml names for the metric."""
    from lmms_eval.api.registry import get_aggregation  # type: ignore[import-not-found]
    from lmms_eval.tasks import TaskManager  # type: ignore[import-not-found]
    from lmms_eval.utils import load_yaml_config  # type: ignore[import-not-found]

    path = TaskManager(verbosity="ERROR", include_path=include).task_index[task]["yaml_path"]
    (found,) = (m for m in load_yaml_config(path, mode="full")["metric_list"] if m["metric"] == metric)
    named = found["aggregation"]
    function: Callable[[list[Any]], float] = get_aggregation(named) if isinstance(named, str) else named
    return function


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("metric")
    parser.add_argument("samples", type=Path)
    parser.add_argument("--include", default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with arguments.samples.open(encoding="utf-8") as lines:
        records = [json.loads(line)[arguments.metric] for line in lines]
    with contextlib.redirect_stdout(sys.stderr):  # aggregations print
        found = interval(
            records, aggregation(arguments.task, arguments.metric, arguments.include or None), arguments.seed
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
