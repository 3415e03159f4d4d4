"""Run a command and leave no process of it running.

Ray starts daemons and workers in sessions of their own, so they can outlive the process that called `ray.init`. All
descendants inherit an environment variable that we set, and are found by it.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

RUN_ID = "CRITIC_R1_RUN_ID"
GRACE_SECONDS = 10.0


def with_run_id(run_id: str) -> list[int]:
    """Ids of the processes of ``run_id``, those of runs nested in it included, our own process excluded."""
    found, name = [], f"{RUN_ID}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or another user's
        for variable in environment.split(b"\0"):
            if variable.startswith(name) and run_id.encode() in variable.removeprefix(name).split(b"/"):
                found.append(int(entry.name))
    return found


def memory_of(run_id: str) -> int:
    """Bytes of memory that the processes of ``run_id`` hold; a shared page counts once."""
    total = 0
    for pid in with_run_id(run_id):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # gone, or another user's
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


@dataclass
class PeakMemory:
    """The most memory that a run was seen to hold, sampled every few seconds because reading it is slow."""

    every_seconds: float = 5.0
    peak: int = 0
    """Bytes."""
    _next: float = field(default=0.0, repr=False)

    def look(self, run_id: str) -> None:
        """Sample, at most once in ``every_seconds``."""
        if time.monotonic() >= self._next:
            self.peak = max(self.peak, memory_of(run_id))
            self._next = time.monotonic() + self.every_seconds


def end_all(run_id: str, *, grace_seconds: float = GRACE_SECONDS) -> int:
    """End every process of ``run_id``, with SIGTERM first; returns how many there were."""
    pids = with_run_id(run_id)
    for sent, wait in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + wait
        for pid in with_run_id(run_id):
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        while time.monotonic() < deadline and with_run_id(run_id):
            time.sleep(0.1)
    return len(pids)


_prctl = ctypes.CDLL(None).prctl
"""Looked up before any fork: a forked child of a threaded process must not import or load anything."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG, prctl(2)."""


def _end_with_parent() -> None:
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM.value)


def follow(
    command: Sequence[str],
    log: Path,
    *,
    on_line: Callable[[str], None] = lambda line: None,
    on_tick: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
    memory: PeakMemory | None = None,
) -> int:
    """Run ``command`` with its output in ``log`` and return its exit status.

    Args:
        on_line: called with each complete line of output.
        on_tick: called about twice a second.
        memory: records the peak memory of the command's processes.

    However this call ends (the command exits, an exception, Ctrl-C), no process that the command started is left. When
    this process is killed, the kernel sends the command SIGTERM.
    """
    run_id = uuid4().hex
    run_ids = "/".join(filter(None, (os.environ.get(RUN_ID), run_id)))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, log.open("rb") as reader:
        reader.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            env={**os.environ, **(environment or {}), RUN_ID: run_ids},
        )
        rest = b""
        try:
            while True:
                status = process.poll()
                rest += reader.read()
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))
                on_tick()
                if memory:
                    memory.look(run_id)
                if status is not None:
                    return status
                time.sleep(0.4)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            end_all(run_id)
