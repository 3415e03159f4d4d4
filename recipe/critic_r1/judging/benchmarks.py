"""A critic benchmark by its name: its own files become tasks in both orders, once, beside the results.

`judge` measures rows of the task Parquet. For a benchmark these are made as `prepare` makes them, with the settings
that a benchmark needs and a user should not have to remember: every pair in both orders, ties kept, nothing left out
without being counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.sources.registry import NAMES, load_source

BENCHMARKS = (
    "vl_rewardbench",
    "mm_rlhf_rewardbench",
    "multimodal_rewardbench",
    "multimodal_rewardbench_2",
    "mllm_judge",
    "omni_rewardbench",
    "videorewardbench",
    "editreward_bench",
)
"""Sources that are published for evaluation. Any other source can be judged by its name, too."""


@dataclass(frozen=True)
class Prepared:
    """Tasks of a benchmark.

    folder: with the Parquet files.
    records: read from the benchmark's files.
    lost: of these, the ones that gave no task, by reason. Figures are then about the rest.
    """

    folder: Path
    records: int
    lost: dict[str, int]


def benchmark_name(data: Sequence[str]) -> str | None:
    """The benchmark that is meant when the data is one name of a source and no file or folder of that name exists."""
    if len(data) == 1 and data[0] in NAMES and not Path(data[0]).exists():
        return data[0]
    return None


def prepare_benchmark(
    name: str,
    inputs: Sequence[str],
    image_roots: Sequence[str],
    folder: Path,
    *,
    limit: int | None = None,
    frames: int = 0,
) -> Prepared:
    """Make the tasks of a benchmark; what an earlier call made of the same files is kept.

    Args:
        inputs: the benchmark's files as published, a folder of them, or a hub id.
        image_roots: folders or zips with the images, where they are not in the files.
        limit: of records.
        frames: that are taken of each video; 0 leaves out records about videos.

    Raises:
        ValueError: no input, no record that can be used, or no file that can be read
            (`data_prep.reading.inputs.InputError`).
    """
    source = load_source(name)
    if not inputs:
        images = " and its images with --image-root" if source.needs_image_root else ""
        raise ValueError(f"{name} is judged on its own files: give those of {source.title} with --input{images}")
    settings = Settings(
        name, orders="both", ties="keep", split="test", image_roots=tuple(image_roots), limit=limit, frames=frames
    )
    manifest = convert(list(inputs), folder, settings)
    if not manifest["rows"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in manifest["rejected"].items())
        raise ValueError(f"no record of {name} could be used ({reasons}); {folder / 'rejected.jsonl'} says what to do")
    lost = {**manifest["rejected"], **manifest["dropped_pairs"]}
    return Prepared(folder, int(manifest["records"]["in"]), {reason: n for reason, n in lost.items() if n})
