"""A run across two Ray nodes against the same run on one, and a run that loses a process, a node, and is stopped.

    python -m benchmarks.cluster

Takes the model and the data of a demo run (its first stage is enough) and trains `STEPS` steps three times:

- ``one_node``: two workers in one Ray on this machine
- ``two_nodes``: one worker on each of two nodes (`benchmarks.cluster_nodes`), sent with ``ray job submit``
- ``disturbed``: the same, sent with ``critic-r1 submit``; after some steps a training process is killed (SIGKILL), then
  every process of the second node, which comes back a moment later, then the job is stopped and sent again.
  Each happens in the middle of a checkpoint's interval, so that steps have to be made again.

Every rollout has its own seed (`benchmarks.seeded`), so runs are compared response by response and not only
by their means. Reported: which actors ran where, the largest difference of each metric, the share of equal responses,
rows that a step of one run had and the other's had not, lines lost or doubled, and how long a restart took. A run
that is finished is not repeated, so the command can be stopped and started again. Needs root and about 12 GB of memory.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.cluster_compare import TOLERANCE, compare
from benchmarks.cluster_nodes import INTERFACE, Cluster
from benchmarks.harness import COMMAND, RESULTS, ROOT, DemoFolder, Out, follow, once, training, write
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings
from recipe.critic_r1.launch import processes, submit, supervisor
from recipe.critic_r1.training.run_log import METRICS, read_lines

STEPS, EVERY = 8, 2
"""Steps of a run, and of them those with a checkpoint."""

KILL_WORKER, KILL_NODE, STOP = 3, 5, 7
"""After which step; none has a checkpoint."""

AWAY = 20.0
"""Seconds that the second node is gone."""


def overrides(run: Path, folder: Path) -> list[str]:
    """What all runs have in common."""
    return [
        *DemoRun(run, DemoSettings(), Console()).train_overrides(),
        f"critic_r1.run_dir={folder}",
        "critic_r1.min_free_memory_gb=null",
        "critic_r1.recovery.backoff_seconds=5",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=benchmarks.seeded.PlacedLoops",
        "actor_rollout_ref.rollout.agent.num_workers=2",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=128",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=128",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={EVERY}",
        "trainer.logger=[console]",
    ]


def last_step(folder: Path) -> int:
    """The last step in the run's log; 0 before the first."""
    path = folder / "train" / METRICS
    return max((record["step"] for record in read_lines(path)), default=0) if path.exists() else 0


def one_node(run: Path, folder: Path) -> dict[str, Any]:
    """Two workers in a Ray of their own."""
    command = training([*overrides(run, folder), "trainer.n_gpus_per_node=2"])
    return {"seconds": follow(command, folder / "log")}


def two_nodes(run: Path, folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A worker on each node, sent with Ray's own command."""
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.jobs]
    command += ["--working-dir", str(ROOT)]
    command += ["--runtime-env-json", json.dumps({"env_vars": {"GLOO_SOCKET_IFNAME": INTERFACE}})]
    command += ["--", *training(["cluster=cpu_nodes", *overrides(run, folder)])]
    placed: dict[str, Any] = {}

    def look() -> None:
        if not placed and last_step(folder) >= 1:
            placed.update({node.address: actors(node.processes()) for node in cluster.nodes})

    seconds = follow(command, folder / "log", look=look, environment=cluster.environment)
    return {"seconds": seconds, "actors": placed}


def actors(titles: dict[int, str]) -> dict[str, int]:
    """How many of which Ray actors these processes are; ``ray::WorkerDict.update`` is a WorkerDict."""
    names = (title.removeprefix("ray::").split(".")[0].split()[0] for title in titles.values() if title[:5] == "ray::")
    return dict(sorted(Counter(name for name in names if name not in NO_ACTORS).items()))


NO_ACTORS = {"IDLE", "DashboardAgent", "RuntimeEnvAgent"}


@dataclass
class Disturber:
    """Kills, switches off and stops, each once, after its step; keeps what it did and when the run went on."""

    folder: Path
    cluster: Cluster
    job: str
    events: list[dict[str, Any]] = field(default_factory=list)
    _at: float | None = None
    """When the event was that the run has not recovered from yet."""

    def look(self) -> None:
        """Called about twice a second."""
        step = last_step(self.folder)
        acts: list[tuple[int, str, Callable[[], int]]] = [
            (KILL_WORKER, "kill -9 of the training process of the second node", self._kill_worker),
            (
                KILL_NODE,
                f"kill -9 of every process of the second node, which is back {AWAY:g} s later",
                self._kill_node,
            ),
            (STOP, "the job is stopped, then sent again", self._stop),
        ]
        if self._at is not None:
            event = self.events[-1]
            if step < event["after_step"]:
                event.setdefault("resumed_from", step)
            if "resumed_from" in event and step > event["resumed_from"]:
                event["seconds_to_the_next_step"] = round(time.monotonic() - self._at, 1)
                self._at = None
        elif len(self.events) < len(acts) and step == acts[len(self.events)][0]:
            _, what, act = acts[len(self.events)]
            self._at = time.monotonic()
            self.events.append({"after_step": step, "what": what})
            self.events[-1]["processes_killed"] = act()

    def _kill_worker(self) -> int:
        return processes_killed(self.cluster.nodes[1].actors("WorkerDict"))

    def _kill_node(self) -> int:
        node = self.cluster.nodes[1]
        killed = node.switch_off()
        time.sleep(AWAY)
        node.start()
        return killed

    def _stop(self) -> int:
        # What `critic-r1 stop` calls; a process of its own would start after the next checkpoint.
        submit.client(self.cluster.jobs).stop_job(self.job)
        return 0


def processes_killed(pids: list[int]) -> int:
    """Kill these processes; returns how many there were."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def cli(cluster: Cluster, *arguments: str) -> str:
    """``critic-r1`` with these arguments; what it printed."""
    command = [COMMAND, *arguments, "--address", cluster.jobs]
    environment = {**cluster.environment, "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def disturbed(run: Path, folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A worker on each node, sent with ``critic-r1 submit``, and everything that `Disturber` does."""
    started = time.monotonic()
    disturber = Disturber(folder, cluster, "disturbed")
    command = [COMMAND, "submit", "demo", "--address", cluster.jobs]
    command += ["--python", sys.executable, "cluster=cpu_nodes", *overrides(run, folder)]
    log, statuses = folder / "log", []
    for job in (disturber.job, "again"):
        sent = [*command, "--job-id", job]
        statuses.append(
            processes.follow(sent, log, on_line=lambda _: None, on_tick=disturber.look, environment=cluster.environment)
        )
    if statuses != [1, 0]:
        raise RuntimeError(f"the stopped job and the next one ended with {statuses}, not [1, 0]; see {log}")
    text = log.read_text(errors="replace")
    listed = cli(cluster, "status")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "events": disturber.events,
        "said": said(text),
        "controllers": controllers(text, cluster),
        "status": {
            job: next(s for s in STATUSES if s in line)
            for job in (disturber.job, "again")
            for line in listed.splitlines()
            if line.strip().startswith(job)
        },
        "bytes_of_logs": len(cli(cluster, "logs", "again", "--no-follow")),
    }


def said(log: str) -> list[str]:
    """What `critic-r1` itself said in a job's output, warnings of preflight left out."""
    lines = [line.removeprefix("critic-r1: ") for line in log.splitlines() if line.startswith("critic-r1: ")]
    return [line for line in lines if not line.startswith("WARN")]


def controllers(log: str, cluster: Cluster) -> list[str]:
    """Address of the node that verl's controller ran on, start by start; Ray names it when it is not the head."""
    starts = dict.fromkeys(re.findall(r"\(CriticTaskRunner pid=(\d+)(?:, ip=([\d.]+))?\)", log))
    return [address or cluster.nodes[0].address for _, address in starts]


STATUSES = ("SUCCEEDED", "STOPPED", "FAILED", "RUNNING", "PENDING")


def packed_bytes() -> dict[str, int]:
    """What `critic-r1 submit` sends: bytes and files."""
    with submit.packed() as folder:
        return {"bytes": submit.size_of(folder), "files": sum(path.is_file() for path in folder.rglob("*"))}


def main(
    run: DemoFolder = Path("runs/demo"),
    folder: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/bench-cluster"),
    disturb: Annotated[bool, typer.Option(help="Whether to make the third run.")] = True,
    out: Out = RESULTS / "cluster.json",
) -> None:
    """Train on one node, on two, and on two that fail; write the comparison."""
    run, folder = run.absolute(), folder.absolute()
    supervisor.interrupt_on_sigterm()  # the nodes are taken down then as well
    folder.mkdir(parents=True, exist_ok=True)
    found = {"one_node": once(folder, "one_node", lambda at: one_node(run, at))}
    names = ["two_nodes", "disturbed"] if disturb else ["two_nodes"]
    with ExitStack() as stack:
        cluster: Any = None
        if not all((folder / f"{name}.json").exists() for name in names):
            # Ray's sockets need a short path.
            scratch = stack.enter_context(TemporaryDirectory(prefix="ray"))
            cluster = stack.enter_context(Cluster(Path(scratch)))
        for name, train in zip(names, (two_nodes, disturbed), strict=False):
            found[name] = once(folder, name, partial(train, run, cluster=cluster))
    result: dict[str, Any] = {
        "settings": {"steps": STEPS, "checkpoint_every": EVERY, "tolerance": TOLERANCE},
        "packed_job": packed_bytes(),
        "runs": found,
    }
    compared = {"two_nodes_against_one_node": ("one_node", "two_nodes")}
    if disturb:
        compared["disturbed_against_two_nodes"] = ("two_nodes", "disturbed")
    for name, (one, other) in compared.items():
        result[name] = compare(folder / one, folder / other, STEPS)
        print(name, json.dumps({key: value for key, value in result[name].items() if key != "steps"}, indent=1))
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
