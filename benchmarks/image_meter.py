"""CPU time, memory and probe lines of a training run's processes, by what a process is; for `benchmarks.images`."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import TICKS, title_of
from recipe.critic_r1.launch import processes
from recipe.critic_r1.training.run_log import read_lines

AGENT, TRAINER, ENGINE, STORAGE = "agent loop", "training worker", "rollout engine", "TransferQueue"
KINDS = {
    AGENT: ("ray::AgentLoopWorker", "ray::SharedPromptWorker"),
    TRAINER: ("ray::WorkerDict",),
    ENGINE: ("ray::vLLMHttpServer", "ray::GroupServer", "VLLM::"),
    STORAGE: ("ray::SimpleStorageUnit", "ray::TransferQueueController"),
}
CLIENTS = (AGENT, TRAINER, "ray::TaskRunnerV1")
"""Of TransferQueue."""


@dataclass
class Meter(processes.PeakMemory):
    """CPU time and memory of a run's processes, looked at as it goes."""

    every_seconds: float = 0.5
    probe: Path = Path()
    """Folder of the probe's lines."""
    messages: int = 14
    """To TransferQueue, from one process, that tell that the first step has begun when no image does."""
    cpu: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Title and CPU seconds of each process."""
    idle: dict[int, int] = field(default_factory=dict)
    """Bytes of each process before the first step."""
    fullest: dict[int, int] = field(default_factory=dict)
    """Bytes of each process when all together held most."""
    _before: dict[int, int] = field(default_factory=dict, repr=False)
    """Bytes of each process at the last look: at the first that finds an image, some are held already."""

    def look(self, run_id: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every_seconds
        held = {pid: memory_of(pid) for pid in processes.with_run_id(run_id)}
        for pid in held:
            title, seconds = title_of(pid), cpu_of(pid)
            if title:
                self.cpu[pid] = (title, seconds)
        begins = not self.idle and any(
            kind_of(self.cpu.get(pid, ("", 0))[0]) == AGENT for pid in at_work(self.probe, self.messages)
        )
        if begins:
            self.idle = self._before or held
        self._before = held
        if begins or sum(held.values()) > self.peak:
            self.peak, self.fullest = sum(held.values()), held

    def held_by(self) -> dict[str, int]:
        """Bytes of the peak above the level before the first step, by kind of process."""
        found: dict[str, int] = defaultdict(int)
        for pid in self.idle.keys() | self.fullest.keys():
            found[kind_of(self.cpu.get(pid, ("", 0.0))[0])] += self.fullest.get(pid, 0) - self.idle.get(pid, 0)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def memory_of(pid: int) -> int:
    """Proportional set size in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_of(pid: int) -> float:
    """User and system seconds so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def kind_of(title: str) -> str:
    """What a process is, from its title: ``ray::AgentLoopWorkerTQ.generate`` is an `AGENT`."""
    for kind, starts in KINDS.items():
        if title.startswith(starts):
            return kind
    return title.split(".")[0].split()[0] if title.startswith("ray::") else "others"


def at_work(folder: Path, messages: int) -> list[int]:
    """Processes that have begun an image in the image processor, or sent so many messages to TransferQueue."""
    texts = {int(path.stem): path.read_text() for path in folder.glob("*.jsonl")}
    return [pid for pid, text in texts.items() if '"begun"' in text or text.count('"sent"') >= messages]


def events(folder: Path, cpu: dict[int, tuple[str, float]], begin: float, end: float) -> Iterator[tuple[str, Any]]:
    """Kind of the process and each line that it wrote between two moments."""
    for path in folder.glob("*.jsonl"):
        kind = kind_of(cpu.get(int(path.stem), ("", 0.0))[0])
        for line in read_lines(path):
            if begin <= line["at"] < end:
                yield kind, line
