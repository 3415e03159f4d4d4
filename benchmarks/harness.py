"""What all measurements share: where results go, the machine they were made on, commands, images, a served model."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from data_prep.files import write_json
from data_prep.tasks.pairwise import SCHEMA, PreferenceTask
from recipe.critic_r1 import provenance
from recipe.critic_r1.launch import processes
from recipe.critic_r1.rehearsal.limit_tasks import photo as photo

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

COMMAND = str(Path(sys.executable).with_name("critic-r1"))
"""The `critic-r1` of this environment."""

DemoFolder = Annotated[Path, typer.Option("--run", help="Folder of a finished `critic-r1 demo`.")]
Out = Annotated[Path, typer.Option(help="Result file.")]


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write a result file with the machine and the versions, and print its path."""
    write_json(out, {**found, "machine": provenance.machine(), "versions": provenance.versions()})
    print(out)


def once(folder: Path, name: str, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` finds in `folder/name`; kept in `folder/name.json`, so that a finished part is not repeated."""
    record = folder / f"{name}.json"
    if not record.exists():
        shutil.rmtree(folder / name, ignore_errors=True)
        write_json(record, measure(folder / name))
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def follow(
    command: Sequence[str],
    log: Path,
    *,
    look: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
    memory: processes.PeakMemory | None = None,
) -> float:
    """Run a command with its output in `log` and return its seconds; `look` is called about twice a second.

    Raises:
        RuntimeError: it failed; the message has the end of the log.
    """
    started = time.monotonic()
    status = processes.follow(
        command, log, on_line=lambda _: None, on_tick=look, environment=environment, memory=memory
    )
    if status:
        raise RuntimeError(f"exit status {status}; the end of {log}: {log.read_text(errors='replace')[-2000:]}")
    return round(time.monotonic() - started, 1)


def training(overrides: Sequence[str]) -> list[str]:
    """The command that trains with the demo's configuration."""
    return [sys.executable, "-m", "recipe.critic_r1.train", "--config-name", "demo", *overrides]


def write_tasks(path: Path, tasks: Iterator[PreferenceTask], batch: int = 1000) -> None:
    """Write critic tasks as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False) as writer:
        while rows := [task.row() for _, task in zip(range(batch), tasks, strict=False)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def english() -> list[str]:
    """English text that is at hand: our prompt templates, and the documentation of the standard library."""
    import argparse
    import decimal
    import logging

    from data_prep.tasks.prompts import TEMPLATES

    texts = [w.render("What is shown?", "It shows a quiet street.", "It shows a beach.") for w in TEMPLATES.values()]
    parts = (part for module in (argparse, decimal, logging) for part in vars(module).values())
    return texts + [str(part.__doc__) for part in parts if getattr(part, "__doc__", None)]


# --- a model folder served by `critic-r1 serve` ---

LONGEST_START = 300.0
"""Seconds; vLLM needs 30 to 90 of them on two cores."""

_COUNTERS = {
    "prefilled": 'vllm:prompt_tokens_by_source_total{engine="0",model_name="%s",source="local_compute"}',
    "prompt": 'vllm:prompt_tokens_total{engine="0",model_name="%s"}',
    "generated": 'vllm:generation_tokens_total{engine="0",model_name="%s"}',
}


@dataclass(frozen=True)
class Server:
    """A running server: its address up to `/v1`, and the name of its model."""

    url: str
    name: str

    @property
    def options(self) -> tuple[str, ...]:
        """Options of our commands that name it."""
        return "--model", self.name, "--base-url", self.url

    def counters(self) -> dict[str, int]:
        """Tokens since the start: `prompt`, of these `prefilled` (the rest was in the prefix cache), `generated`."""
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {what: int(float(found[counter % self.name])) for what, counter in _COUNTERS.items()}


@contextmanager
def served(model: Path, name: str, log: Path, *options: str) -> Iterator[Server]:
    """Serve a model folder on a free port, with further options of `vllm serve`.

    Raises:
        RuntimeError: the server ended, or is not up after LONGEST_START seconds; the message names its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [COMMAND, "serve", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    server = Server(f"http://127.0.0.1:{port}/v1", name)
    with log.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen([*command, *options], stdout=lines, stderr=lines)
    try:
        _wait_for(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_for(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}: see {log}")
        try:
            urllib.request.urlopen(f"{server.url}/models", timeout=10).close()
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"the server is not up after {LONGEST_START:.0f} s: see {log}")


# --- processes of this machine ---

TICKS = os.sysconf("SC_CLK_TCK")


def title_of(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
