"""A run is started again when that can help, and only then."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipe.critic_r1.launch import supervisor, wait_for_cluster
from recipe.critic_r1.launch.watchdog import WorkerDied

# A training run of 6 steps with a checkpoint every second step. Its failures are listed, one for each start: the step
# at which it fails, and how (an exit status, or a signal when negative).
RUN = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may ignore it
folder, failures = sys.argv[1], json.loads(sys.argv[2])
starts = os.path.join(folder, "starts")
with open(starts, "a") as file:
    file.write(json.dumps(sys.argv[3:]) + "\\n")
start = sum(1 for _ in open(starts)) - 1
tracker = os.path.join(folder, "tracker")
step = int(open(tracker).read()) if os.path.exists(tracker) else 0
print("restart", os.environ["CRITIC_R1_SUPERVISED"])
while step < 6:
    step += 1
    if start < len(failures) and failures[start][0] == step:
        status = failures[start][1]
        os.kill(os.getpid(), -status) if status < 0 else sys.exit(status)
    print("step", step, flush=True)
    if step % 2 == 0:
        open(tracker, "w").write(str(step))
"""


class Supervised:
    """`recovery.supervise` of a run with these failures."""

    def __init__(self, folder: Path, failures: list[tuple[int, int]], *, max_restarts: int = 3) -> None:
        self.folder = folder
        self.waits: list[float] = []
        self.status = supervisor.supervise(
            [sys.executable, "-c", RUN, str(folder), json.dumps(failures)],
            log=folder / "console.log",
            last_step=self.last_step,
            max_restarts=max_restarts,
            backoff_seconds=30,
            wait=self.waits.append,
        )
        self.starts = [json.loads(line) for line in (folder / "starts").read_text().splitlines()]
        lines = (folder / "console.log").read_text().splitlines()
        self.steps, self.restarts = (
            [int(line.split()[1]) for line in lines if line.startswith(word)] for word in ("step ", "restart ")
        )

    def last_step(self) -> int | None:
        tracker = self.folder / "tracker"
        return int(tracker.read_text()) if tracker.exists() else None


def test_an_undisturbed_run_is_run_once(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [])
    assert (run.status, run.steps, run.waits) == (0, [1, 2, 3, 4, 5, 6], [])


@pytest.mark.parametrize("death", [supervisor.TRANSIENT, -signal.SIGKILL, -signal.SIGSEGV])
def test_a_dead_process_is_followed_by_a_restart(tmp_path: Path, death: int) -> None:
    run = Supervised(tmp_path, [(4, death), (5, death)])
    assert run.status == 0
    assert run.steps == [1, 2, 3, 3, 4, 5, 6]
    assert run.waits == [30, 30]  # each start had made a checkpoint
    assert run.starts == [[], ["trainer.resume_mode=auto"], ["trainer.resume_mode=auto"]]
    assert run.restarts == [0, 1, 2]


@pytest.mark.parametrize("status", [1, 2, -signal.SIGTERM, -signal.SIGINT])
def test_what_would_come_again_is_not_repeated(tmp_path: Path, status: int) -> None:
    run = Supervised(tmp_path, [(4, status)])
    assert run.status == (status if status > 0 else 128 - status)
    assert len(run.starts) == 1


def test_restarts_are_bounded_and_wait_longer_without_progress(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [(1, 75)] * 9, max_restarts=4)
    assert run.status == 75
    assert len(run.starts) == 5
    assert run.waits == [30, 60, 120, 240]
    # No checkpoint: nothing to resume from.
    assert run.starts == [[]] * 5


def test_what_is_transient() -> None:
    from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
    from torch.distributed import DistNetworkError

    for error in (
        ActorDiedError(),
        NodeDiedError("gone"),
        OutOfMemoryError("m"),
        WorkerDied("w"),
        ConnectionError("c"),
        DistNetworkError("the store does not answer"),
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:1"
        ),
    ):
        assert supervisor.is_transient(error), error
        if isinstance(error, Exception):
            assert supervisor.is_transient(RayTaskError("run", "trace", RayTaskError("run", "trace", error)))
    for error in (
        ValueError("rows"),
        RayTaskError("run", "trace", KeyError("pair_id")),
        MemoryError(),
        OSError(28, "full"),
        RuntimeError("size mismatch"),
    ):
        assert not supervisor.is_transient(error), error


AWAY = [(1, 1.0), (2, 1.0)]  # a machine is gone; it is back, and a process of the run before still holds its GPU


@pytest.mark.parametrize(
    ("address", "more", "seen", "seconds", "waits"),
    [
        ("auto", 0, [(2, 2.0)], 60, 0),
        ("auto", 0, [*AWAY, (2, 2.0)], 60, 2),
        ("auto", 0, [(3, 2.0)], 60, 0),
        ("auto", 1, [(2, 2.0), (3, 3.0)], 60, 1),  # the reward model has a GPU of its own
        ("auto", 0, [(1, 1.0)] * 3, 10, 2),  # given up: preflight says what is missing
        ("local", 0, [], 60, 0),  # a Ray of its own has no machines that could be away
    ],
)
def test_a_restart_waits_for_the_machines(
    address: str, more: int, seen: list[tuple[int, float]], seconds: int, waits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = {"nnodes": 1, "n_gpus_per_node": more}
    config = OmegaConf.create(
        {
            "critic_r1": {"recovery": {"machines_seconds": seconds}},
            "ray_kwargs": {"ray_init": {"address": address}},
            "trainer": {"nnodes": 2, "n_gpus_per_node": 1},
            "reward": {"reward_model": {"enable": more > 0, "enable_resource_pool": True, **pool}},
        }
    )
    looks = iter(seen)
    waited: list[float] = []
    wait_for_cluster.for_machines(config, look=lambda *_: next(looks), wait=waited.append)
    assert waited == [wait_for_cluster.LOOK_EVERY] * waits
    assert next(looks, None) is None
    assert ("waiting for 2 machine(s) with 1 free GPU(s)" in capsys.readouterr().err) == (waits > 0)


SUPERVISOR = """
import signal, sys
from pathlib import Path
from recipe.critic_r1.launch import supervisor
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
supervisor.interrupt_on_sigterm()
supervisor.supervise([sys.executable, "-c", sys.argv[2]], log=Path(sys.argv[1]), last_step=lambda: None, max_restarts=3,
                   backoff_seconds=0)
"""

CHILD = """
import os, time
print(os.getpid(), flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_supervisor(tmp_path: Path, sign: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path / "log"), CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as supervisor:
        assert supervisor.stdout
        child = int(supervisor.stdout.readline())
        supervisor.send_signal(sign)
        supervisor.wait(30)
    deadline = time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)
    assert (tmp_path / "log").read_text().split() == [str(child)]  # not started again


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
