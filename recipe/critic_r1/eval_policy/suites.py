"""A suite: which benchmarks, in which groups, and which of a benchmark's figures counts.

A suite is a yaml file in suites/, or one of the user's own, given by its path. Names are checked twice: against the
record of the installed tool (installed.json) by a test, and against the tool itself by `eval-policy --check`, which
writes that record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep.tasks.prompts import THINK_THEN_ANSWER

FOLDER = Path(__file__).parent / "suites"

INSTALLED = Path(__file__).parent / "installed.json"
"""What the installed tool says of every task in our suites. Written by `eval-policy all --check --record`."""

ROWS_TASK = "policy_rows"
"""The task that `--rows` fills with rows of our own."""


class Benchmark(BaseModel):
    """One task of lmms-eval.

    task: its name there.
    metric: the figure that counts, by its name there.
    unit: what the tool calls everything right: 1 or 100.
    judge: whether its metric asks another model, which has to be served as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    metric: str
    unit: Literal[1, 100] = 1
    judge: bool = False


class Suite(BaseModel):
    """Benchmarks in groups, and how the model is asked.

    about: what the suite is for, and where the choice comes from.
    suffix: added to each question as a last paragraph; empty for prompts that hold all that they need, and for models
        that answer at once.
    max_tokens: longest answer, thoughts included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    suffix: str = THINK_THEN_ANSWER
    max_tokens: int = Field(default=8192, gt=0)
    groups: dict[str, tuple[Benchmark, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _tasks_once(self) -> Suite:
        names = [benchmark.task for benchmark in self.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice")
        return self

    @property
    def benchmarks(self) -> list[Benchmark]:
        """All benchmarks, group by group."""
        return [benchmark for group in self.groups.values() for benchmark in group]


def names() -> list[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """A suite by its name or by the path of its file.

    Raises:
        ValueError: there is no such suite, or its file is not one; the message says what is wrong where.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no suite {name!r}: have {', '.join(names())}, or give the path of a yaml file")
    try:
        return Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def faults(suite: Suite, found: dict[str, Any]) -> list[str]:
    """What the installed tool does not agree with, one line each; empty when all is well.

    Args:
        found: the answer of tool_side/lmms_tasks.py for the suite's tasks (its key `tasks`), or `installed()`.
    """
    known = {task["task"]: task for task in found["tasks"]}
    lines = []
    for benchmark in suite.benchmarks:
        task = known.get(benchmark.task)
        if task is None:
            lines.append(f"{benchmark.task}: lmms-eval {found['lmms_eval']} has no such task")
        elif task.get("error"):
            lines.append(f"{benchmark.task}: its code does not load: {task['error']}")
        elif benchmark.metric not in task["metrics"]:
            lines.append(f"{benchmark.task}: no metric {benchmark.metric!r}, but {', '.join(task['metrics'])}")
    return lines


def installed() -> dict[str, Any]:
    """The committed record of the installed tool."""
    record: dict[str, Any] = json.loads(INSTALLED.read_text(encoding="utf-8"))
    return record
