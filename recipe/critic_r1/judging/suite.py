"""Several critic benchmarks by one file: what it asks for, checked before anything is judged, and one table of results.

benchmarks:
  vl_rewardbench: {input: MMInstruction/VL-RewardBench}
  mm_rlhf_rewardbench: {input: data/mm_reward_bench.jsonl, image_root: data/images}
limit: 100
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from data_prep.reading.video import MOST_FRAMES
from data_prep.sources.registry import NAMES, load_source

METRICS = {
    "overall": "official/overall",
    "macro": "official/macro",
    "acc_plus": "official/acc_plus",
    "both orders": "critic/accuracy_both_orders",
    "consistency": "critic/swap_consistency",
    "position bias": "critic/position_bias",
    "unreadable": "critic/parse_failures",
}
"""Column of the table -> metric of `judge.json`."""

Many = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Entry(BaseModel):
    """One benchmark: its files, and what differs from the options of the command."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Many = Field(min_length=1)
    image_root: Many = ()
    limit: int | None = Field(default=None, gt=0)
    frames: int = Field(default=0, ge=0, le=MOST_FRAMES)


class JudgeSuite(BaseModel):
    """The benchmarks in the order in which they are judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmarks: dict[str, Entry] = Field(min_length=1)
    limit: int | None = Field(default=None, gt=0)
    """Judge at most this many records of each benchmark."""


def read_suite(path: Path) -> JudgeSuite:
    """The suite in a YAML file.

    Raises:
        ValueError: it is not one, names a benchmark that does not exist, or lacks the images of one.
    """
    try:
        suite = JudgeSuite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({str(error).splitlines()[0]})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: {place}: {first['msg']}; see docs/judging.md for the form of a suite") from error
    for name, entry in suite.benchmarks.items():
        if name not in NAMES:
            raise ValueError(f"{path}: there is no benchmark '{name}'; choose among {', '.join(NAMES)}")
        if load_source(name).needs_image_root and not entry.image_root:
            raise ValueError(f"{path}: {name} names its images: give their folder or zip as image_root")
    return suite


def run_suite(
    suite: JudgeSuite, out: Path, judge: Callable[[str, Entry, int | None, Path], int]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Judge one benchmark after another; one that fails does not keep the others from being judged.

    Args:
        judge: judges the benchmark of this name with this limit into a folder; returns the exit status.

    Returns:
        Per benchmark the metrics of its `judge.json`, and the exit status of those that failed.
    """
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, int] = {}
    for name, entry in suite.benchmarks.items():
        if status := judge(name, entry, entry.limit or suite.limit, out / name):
            failed[name] = status
        result = out / name / "judge.json"
        if result.is_file() and status != 2:  # 2: nothing was judged, so the file is of an earlier run
            found[name] = json.loads(result.read_text(encoding="utf-8"))["metrics"]
    return found, failed


def rows(suite: JudgeSuite, found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The table: a row for each benchmark, with a dash for a metric that it does not have."""
    table = []
    for name in suite.benchmarks:
        metrics = found.get(name, {})
        cells = [metrics.get(metric) for metric in METRICS.values()]
        values = ["-" if cell is None or cell["value"] is None else f"{cell['value']:.3f}" for cell in cells]
        first = cells[0]
        interval = "-" if first is None or first["value"] is None else f"{first['low']:.3f} to {first['high']:.3f}"
        table.append([name, values[0], interval, *values[1:]])
    return table
