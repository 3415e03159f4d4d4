"""The server that does the algebra: limits, restarts, threads."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward_fns import symbolic
from reward_fns.answer import CHECKER
from reward_fns.symbolic import MAX_CHARS, SymbolicChecker

ENDLESS = ("1+1", "9^{9^{9^{9}}}")
MISSING = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).send(b'missing')"
"""What the server does without math-verify."""


@pytest.fixture
def checker() -> Iterator[SymbolicChecker]:
    made = SymbolicChecker(seconds=10.0)
    yield made
    made.close()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> SymbolicChecker:
    monkeypatch.setattr(CHECKER, "seconds", 10.0)
    return CHECKER


@pytest.mark.parametrize(
    ("gold", "answer", "found"),
    [
        ("x+1", "1+x", "equal"),
        ("x+1", "x+2", "different"),
        ("x+1", "}{", "different"),
        ("x+1", "\ud800", "different"),
        ("x+1", "x+1" + "+0" * MAX_CHARS, "too_long"),
    ],
)
def test_what_is_found(shared: SymbolicChecker, gold: str, answer: str, found: str) -> None:
    assert shared.compare(gold, answer) == found


def test_a_hostile_answer_takes_at_most_a_second_and_nothing_from_other_threads() -> None:
    checker = SymbolicChecker()
    assert checker.compare("x+1", "1+x") in ("equal", "limit")  # started
    checker.seconds = 10.0
    assert checker.compare("x+1", "1+x") == "equal"
    checker.seconds = 1.0

    def ask(number: int) -> tuple[str, float]:
        start = time.monotonic()
        return checker.compare(*(ENDLESS if number % 2 else ("x", "x"))), time.monotonic() - start

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(16)))
    hostile, good = found[1::2], found[0::2]
    assert {result for result, _ in hostile} == {"limit"}
    assert max(seconds for _, seconds in hostile) < 2.0  # the limit, and what a busy machine adds
    # Eight threads, one after the other after eight hostile answers, would take eight seconds.
    assert sum(seconds for _, seconds in good) < 8.0
    assert checker.failures["limit"] >= 8
    checker.close()


def test_a_server_that_is_late_once_is_used_as_soon_as_it_is_ready(
    checker: SymbolicChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(symbolic, "START_SECONDS", 0.01)
        assert checker.compare("x+1", "1+x") == "unavailable"
    assert checker.compare("x+1", "1+x") == "equal"
    assert checker.failures == {"unavailable": 1}


def test_a_server_that_never_gets_ready_is_replaced(checker: SymbolicChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(symbolic, "_SERVER", "import time; time.sleep(600)")
        patch.setattr(symbolic, "START_SECONDS", 0.05)
        assert checker.compare("x+1", "1+x") == "unavailable"
        stuck = checker._server
        time.sleep(0.1)
    monkeypatch.setattr(symbolic, "START_SECONDS", 0.05)
    checker.compare("x+1", "1+x")
    monkeypatch.setattr(symbolic, "START_SECONDS", 60.0)
    assert checker.compare("x+1", "1+x") == "equal"
    assert stuck is not None
    assert stuck.poll() is not None


def test_a_server_that_dies_is_replaced(checker: SymbolicChecker) -> None:
    assert checker.equal("x+1", "1+x")
    assert checker._server is not None
    checker._server.kill()
    checker._server.wait()
    assert checker.equal("x+1", "1+x")


def test_a_server_that_hangs_is_replaced(checker: SymbolicChecker) -> None:
    assert checker.equal("x+1", "1+x")
    assert checker._server is not None
    os.kill(checker._server.pid, signal.SIGSTOP)
    checker.seconds = 0.2
    assert checker.compare("x+1", "1+x") == "limit"
    checker.seconds = 10.0
    assert checker.equal("x+1", "1+x")


def test_one_late_answer_does_not_end_the_server(checker: SymbolicChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new server would make all threads wait."""
    assert checker.equal("x+1", "1+x")
    server, put = checker._server, symbolic._put

    def late(door: socket.socket, question: bytes, end: float) -> bytes:
        reply = put(door, question, end + 10.0)
        if question != b"ping":
            raise TimeoutError
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(symbolic, "_put", late)
        assert checker.compare("x+1", "1+x") == "limit"
    checker.seconds = 10.0
    assert checker.equal("x+1", "1+x")
    assert checker._server is server


def test_without_time_nothing_is_found(shared: SymbolicChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.equal("x+1", "1+x")
    monkeypatch.setattr(shared, "seconds", 0.0)
    assert shared.compare("x+1", "1+x") == "limit"


@pytest.mark.parametrize(
    ("server", "again"),
    [
        (MISSING, False),
        ("import sys; sys.exit(1)", True),
    ],
)
def test_a_start_that_fails(
    checker: SymbolicChecker, monkeypatch: pytest.MonkeyPatch, server: str, again: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(symbolic, "_SERVER", server)
        if again:
            assert checker.compare("x+1", "1+x") == "unavailable"
        else:
            with pytest.warns(UserWarning, match="math-verify is not installed"):
                assert checker.compare("x+1", "1+x") == "unavailable"
        start = time.monotonic()
        assert checker.compare("x+1", "1+x") == "unavailable"  # in the pause after it: no second start
        assert time.monotonic() - start < 0.2
    checker._retry = 0.0
    assert checker.compare("x+1", "1+x") == ("equal" if again else "unavailable")


def test_a_fork_of_the_worker_has_a_server_of_its_own(checker: SymbolicChecker) -> None:
    assert checker.equal("x+1", "1+x")
    checker._lock.acquire()  # held by another thread at the time of the fork
    child = os.fork()
    if not child:
        os._exit(0 if checker.equal("x+1", "1+x") else 1)
    checker._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert checker.equal("x+1", "1+x")


def test_a_copy_starts_its_own_server(shared: SymbolicChecker) -> None:
    copy = pickle.loads(pickle.dumps(shared))
    assert copy.seconds == 10.0
    assert copy._server is None


def test_the_server_leaves_with_the_worker() -> None:
    code = (
        "from reward_fns.symbolic import SymbolicChecker; c = SymbolicChecker(60.0)\n"
        "print(c.equal('x+1', '1+x'), c._server.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    equal, pid = done.stdout.split()
    assert equal == "True"
    for _ in range(100):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]  # noqa: SIM115
        if state == "Z":
            return  # ended; nobody collects it in this container
        time.sleep(0.1)
    raise AssertionError("the server outlives its worker")
