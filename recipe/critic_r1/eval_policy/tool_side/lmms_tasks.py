"""What the installed lmms-eval has to offer, as JSON: run in the tool's environment, where nothing of ours is.

    ENVIRONMENT/bin/python lmms_tasks.py [--include FOLDER] [TASK ...]

Without names: every task, group and tag, each with its kind. With names: for each one its leaf tasks, and for every
leaf the metrics that it reports and whether its functions can be imported here, which is where a missing library shows.
Only files of the tool are read; no data set is touched.
"""

import argparse
import contextlib
import json
import sys
import traceback
from importlib.metadata import version
from typing import Any


def leaves(manager: Any, name: str) -> list[str]:
    """Names of the tasks below a group or tag; the name itself when it is a task."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    if entry["type"] in ("task", "python_task"):
        return [name]
    below = entry["task"]
    if below == -1:  # a group with a file of its own
        from lmms_eval.utils import load_yaml_config  # type: ignore[import-not-found]

        below = load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    names = [below] if isinstance(below, str) else [b if isinstance(b, str) else b.get("task") for b in below]
    return [leaf for one in names if isinstance(one, str) for leaf in leaves(manager, one)]


def examine(manager: Any, task: str) -> dict[str, Any]:
    """Metrics and data set of a leaf task, and the error that importing its functions raised."""
    from lmms_eval.utils import load_yaml_config

    path = manager.task_index[task]["yaml_path"]
    try:
        config = load_yaml_config(path, mode="full")
    except Exception:
        return {"task": task, "error": traceback.format_exc(limit=-1).strip().splitlines()[-1]}
    return {
        "task": task,
        "metrics": [metric["metric"] for metric in config.get("metric_list") or [] if "metric" in metric],
        "output_type": config.get("output_type") or "generate_until",
        "dataset": config.get("dataset_path"),
        "error": None,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--include", default=None)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # tasks print as they are imported
        from lmms_eval.tasks import TaskManager  # type: ignore[import-not-found]

        manager = TaskManager(verbosity="ERROR", include_path=arguments.include)
        found: dict[str, Any] = {"lmms_eval": version("lmms_eval")}
        if arguments.names:
            found["leaves"] = {name: leaves(manager, name) for name in arguments.names}
            tasks = sorted({leaf for below in found["leaves"].values() for leaf in below})
            found["tasks"] = [examine(manager, task) for task in tasks]
        else:
            found["names"] = {name: entry["type"] for name, entry in sorted(manager.task_index.items())}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
