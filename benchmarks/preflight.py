"""How long it takes to know that a run can start, and how large the job is that a cluster is sent.

    python -m benchmarks.preflight

- ``preflight``: ``critic-r1 preflight --config-name r1 cluster=4x8`` in a process of its own, imports included, on
  40,000 critic rows with an image of 640x480 each (64 different ones)
- ``compose``: a process that composes ``r1`` with its groups and resolves it
- ``packed job``: what `critic-r1 submit` sends
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.harness import COMMAND, RESULTS, Out, photo, spread, write, write_tasks
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask
from recipe.critic_r1.launch import submit

COMPOSE = """
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
with initialize_config_module("recipe.critic_r1.config", version_base=None):
    OmegaConf.resolve(compose("r1", overrides=["cluster=4x8", "tuning=fast"]))
"""


def tasks(rows: int, images: list[bytes]) -> Iterator[PreferenceTask]:
    """Critic tasks with questions and responses of some hundred characters."""
    for i in range(rows):
        texts = (f"Response one of row {i}. " * 16, f"Response two of row {i}. " * 16)
        question = f"What is shown in image {i}, and where? " + "Look at every part of it. " * 4
        pair = PreferencePair("benchmark", (Image(images[i % len(images)]),), question, texts, i % 2)
        yield PreferenceTask(pair, order=i // 2 % 2, index=i, split="train")


def timed(command: list[str], repeats: int) -> tuple[dict[str, Any], str]:
    """Wall and processor seconds of a process over `repeats`, and what it printed."""
    wall, processor, printed = [], [], ""
    for _ in range(repeats):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wall.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": spread(wall), "processor_seconds": spread(processor)}, printed


def main(
    rows: Annotated[int, typer.Option(help="Rows of the training file.")] = 40_000,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each.")] = 3,
    out: Out = RESULTS / "preflight.json",
) -> None:
    """Measure preflight, composing and the packed job."""
    with TemporaryDirectory() as scratch:
        folder, images = Path(scratch), [photo((640, 480), seed) for seed in range(64)]
        write_tasks(folder / "train.parquet", tasks(rows, images))
        write_tasks(folder / "val.parquet", tasks(400, images))
        command = [COMMAND, "preflight", "--config-name", "r1", "--json"]
        command += [f"critic_r1.run_dir={folder}/run", "cluster=4x8", "trainer.max_actor_ckpt_to_keep=1"]
        command += [f"data.train_files={folder}/train.parquet", f"data.val_files={folder}/val.parquet"]
        # Disk and GPUs are those of a cluster; this machine's disk is not measured here.
        preflight, printed = timed([*command, "trainer.save_freq=-1"], repeats)
        size = (folder / "train.parquet").stat().st_size
    with submit.packed() as packed:
        job = {"bytes": submit.size_of(packed), "files": sum(path.is_file() for path in packed.rglob("*"))}
    statuses = [finding["status"] for finding in json.loads(printed)]
    counts = {status: statuses.count(status) for status in ("pass", "warn", "fail")}
    compose, _ = timed([sys.executable, "-c", COMPOSE], repeats)
    found = {"preflight": {"rows": rows, "bytes": size, **preflight, "statuses": counts}, "compose": compose}
    write(out, {**found, "packed_job": job})


if __name__ == "__main__":
    typer.run(main)
