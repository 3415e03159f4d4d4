"""A followed process leaves nothing behind, whatever ends it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.critic_r1.launch import processes

# A child that starts a grandchild in a session of its own, as Ray does, and then prints and ends as told.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("grandchild", child.pid, flush=True)
{then}
"""


def run(then: str, log: Path, on_tick: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
    lines: list[str] = []
    status = processes.follow(
        [sys.executable, "-c", FAMILY.format(then=then)], log, on_line=lines.append, on_tick=on_tick
    )
    return status, lines


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("sys.exit(0)", 0),  # ends well and forgets its child
        ("sys.exit(3)", 3),  # fails
        ("os.kill(os.getpid(), 9)", -9),  # is killed, with no chance to clean up
    ],
)
def test_a_grandchild_does_not_survive(tmp_path: Path, then: str, status: int) -> None:
    found, lines = run(then, tmp_path / "log")
    assert found == status
    assert not alive(int(lines[0].split()[1]))


def test_ctrl_c_ends_the_family(tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        log = (tmp_path / "log").read_text().split()
        if len(log) == 2:
            seen.append(int(log[1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("time.sleep(600)", tmp_path / "log", interrupt)
    assert not alive(seen[0])


FOLLOWER = """
import sys
from pathlib import Path
from recipe.critic_r1.launch import processes
sleeper = [sys.executable, "-c", {family!r}]
processes.follow(sleeper, Path({log!r}), on_line=lambda line: print(line, flush=True), on_tick=lambda: None)
"""


def test_nothing_survives_a_follower_that_is_killed(tmp_path: Path) -> None:
    """The follower has no chance to clean up; the kernel ends its child, and whoever followed it the grandchild."""
    then = "print('child', os.getpid(), flush=True); print('follower', os.getppid(), flush=True); time.sleep(600)"
    code = FOLLOWER.format(family=FAMILY.format(then=then), log=str(tmp_path / "inner"))
    seen: dict[str, int] = {}

    def note(line: str) -> None:
        name, _, pid = line.partition(" ")
        seen[name] = int(pid)

    def kill() -> None:
        if "follower" in seen and alive(seen["follower"]):
            os.kill(seen["follower"], signal.SIGKILL)

    status = processes.follow([sys.executable, "-c", code], tmp_path / "outer", on_line=note, on_tick=kill)
    assert status == -signal.SIGKILL
    assert sorted(seen) == ["child", "follower", "grandchild"]
    assert not any(map(alive, seen.values()))


def test_a_family_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    run_id = "stubborn"
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, processes.RUN_ID: run_id}, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes.end_all(run_id, grace_seconds=0.3) == 1
        assert child.wait(10) == -signal.SIGKILL


def test_lines_arrive_whole_and_the_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    _, lines = run("print('a', end='', flush=True); time.sleep(0.6); print('b')", log)
    assert lines[1:] == ["ab"]
    assert log.read_text().startswith("earlier\n")


def test_the_peak_of_memory_is_that_of_the_whole_family(tmp_path: Path) -> None:
    holds = "held = b'1' * 100_000_000; import time; time.sleep(2)"
    family = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds!r}])"
    memory = processes.PeakMemory(every_seconds=0.2)
    status = processes.follow(
        [sys.executable, "-c", family],
        tmp_path / "log",
        on_line=lambda line: None,
        on_tick=lambda: None,
        memory=memory,
    )
    assert status == 0
    assert 100e6 < memory.peak < 200e6
