"""How long it takes to know that a run can start, and how large the job is that a cluster is sent.

    python -m benchmarks.preflight --out benchmarks/results/preflight.json

- ``preflight``: ``critic-r1 preflight --config-name r1 cluster=4x8`` in a process of its own, imports included, on
  40,000 critic rows with a photograph of 640x480 each (64 different ones, drawn here; JPEG, about 80 kB)
- ``compose``: a process that composes ``r1`` with its groups and resolves it
- ``packed job``: what `critic-r1 submit` sends
"""

import io
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import ImageFilter

from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask
from recipe.critic_r1 import provenance
from recipe.critic_r1.launch import submit

WIDTH, HEIGHT = 640, 480
BATCH = 1000
"""Rows of a row group."""

COMPOSE = """
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
with initialize_config_module("recipe.critic_r1.config", version_base=None):
    OmegaConf.resolve(compose("r1", overrides=["cluster=4x8", "tuning=fast"]))
"""


def photographs(n: int) -> list[bytes]:
    """``n`` JPEG files of smooth noise, as large as photographs."""
    random, found = np.random.default_rng(0), []
    for _ in range(n):
        noise = PIL.Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(1.2)).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def write_rows(path: Path, rows: int, images: list[bytes]) -> None:
    """Critic tasks with questions and responses of some hundred characters."""
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False) as writer:  # each row with its own image
        for start in range(0, rows, BATCH):
            records = [
                PreferenceTask(
                    PreferencePair(
                        "benchmark",
                        (Image(images[i % len(images)]),),
                        f"What is shown in image {i}, and where? " + "Look at every part of it. " * 4,
                        (f"Response one of row {i}. " * 16, f"Response two of row {i}. " * 16),
                        i % 2,
                    ),
                    order=i // 2 % 2,
                    index=i,
                    split="train",
                ).row()
                for i in range(start, min(start + BATCH, rows))
            ]
            writer.write_table(pa.Table.from_pylist(records, schema=SCHEMA))


def timed(command: list[str], repeats: int, check: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Wall and processor seconds of a process, the median and the range of ``repeats``."""
    wall, processor = [], []
    for _ in range(repeats):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        check(done.stdout)
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in (("seconds", wall), ("processor_seconds", processor))
    }


def main(
    rows: Annotated[int, typer.Option(help="Rows of the training file.")] = 40_000,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 3,
    out: Annotated[Path, typer.Option(help="Result file.")] = Path("benchmarks/results/preflight.json"),
) -> None:
    """Measure preflight, composing and the packed job."""
    findings: list[dict[str, str]] = []

    def keep(text: str) -> None:
        findings[:] = json.loads(text)

    with TemporaryDirectory() as scratch:
        folder, images = Path(scratch), photographs(64)
        write_rows(folder / "train.parquet", rows, images)
        write_rows(folder / "val.parquet", 400, images)
        command = [sys.executable, "-m", "recipe.critic_r1.cli", "preflight", "--config-name", "r1", "--json"]
        command += [f"critic_r1.run_dir={folder}/run", "cluster=4x8", "trainer.max_actor_ckpt_to_keep=1"]
        command += [f"data.train_files={folder}/train.parquet", f"data.val_files={folder}/val.parquet"]
        # Disk and GPUs are those of a cluster; this machine's disk is not measured here.
        preflight = timed([*command, "trainer.save_freq=-1"], repeats, keep)
        size = (folder / "train.parquet").stat().st_size
    with submit.packed() as packed:
        files = [path for path in packed.rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        job = {
            "bytes": submit.size_of(packed),
            "files": len(files),
            "largest": [str(largest.relative_to(packed)), largest.stat().st_size],
        }
    result = {
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "preflight": {
            "rows": rows,
            "bytes": size,
            **preflight,
            "statuses": {s: sum(f["status"] == s for f in findings) for s in ("pass", "warn", "fail")},
        },
        "compose": timed([sys.executable, "-c", COMPOSE], repeats),
        "packed_job": job,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("preflight", "compose", "packed_job")}, indent=1))
    print(out)


if __name__ == "__main__":
    typer.run(main)
