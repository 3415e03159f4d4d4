"""Equality of two expressions by math-verify, bounded in time, memory and size, from any thread.

math-verify stops a runaway computation with a POSIX alarm, which works in the main thread only; verl calls rewards from
a thread pool. A thread cannot be stopped from outside, a process can. So each reward worker starts one server process
that imports math-verify and then forks a process for each comparison. A fork takes milliseconds, the threads do not
wait for each other, and a comparison that runs away is ended by its own alarm and costs nobody else anything.

A question travels over a socket together with the descriptor on which its process answers. The server leaves when the
last copy of its socket is closed, so it does not outlive the worker.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from typing import Any, Literal

Comparison = Literal["equal", "different", "too_long", "limit", "unavailable"]
"""too_long: more than MAX_CHARS characters. limit: stopped by the time or memory limit. unavailable: math-verify is
missing, or its process is not ready or died."""

MAX_CHARS = 128
"""Longer expressions are not compared."""

SECONDS = 1.0
"""Longest wait for one comparison. Most take a few milliseconds."""

START_SECONDS = 60.0
"""Longest wait for the server to import math-verify, which takes about a second on an idle machine. A server that is
late is not given up: it answers as soon as it is ready, and is replaced after twice the time."""

MEMORY_BYTES = 2 << 30
"""Address space of a comparison."""

MAX_PAUSE = 60.0
"""Longest pause in seconds between two starts that fail."""

# Given to the server as text, so that it also works when this file was pickled by value and has no path.
_SERVER = """
import json, logging, os, resource, signal, socket, sys
resource.setrlimit(resource.RLIMIT_AS, (%(memory)d, %(memory)d))
door = socket.socket(fileno=int(sys.argv[1]))
logging.disable(logging.CRITICAL)
try:
    from math_verify import parse, verify
except ImportError:
    door.send(b"missing")
    sys.exit()

def equal(gold, answer):
    gold, answer = (parse("$" + text + "$", parsing_timeout=None) for text in (gold, answer))
    return bool(gold and answer and verify(gold, answer, timeout_seconds=None))

# What is loaded at first use is loaded once, before the forks.
for pair in (
    ("x+1", "1+x"), (r"\\frac{1}{2}", "0.5"), ("(1,2)", "[1,2]"), ("x>2", "2<x"), (r"\\sqrt{2}", "1.4"), ("x=5", "5"),
    ("(x+1)^2", "x^2+2x+1"), ("x^2", "x^3"), (r"\\{1,2\\}", "2,1"), (r"\\sin x", "x"), (r"2\\pi", r"\\pi+\\sqrt{3}"),
):
    equal(*pair)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGALRM, signal.SIG_DFL)  # dispositions and masks are inherited
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
door.send(b"ready")
while True:
    question, (reply, *_), _, _ = socket.recv_fds(door, 8192, 1)
    if question == b"ping":
        try:
            os.write(reply, b"1")
        except OSError:
            pass  # nobody waits for it any more
        os.close(reply)
        continue
    try:
        child = os.fork()
    except OSError:
        child = -1
    if child == 0:
        gold, answer, seconds = json.loads(question)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nothing handles the alarm, so it ends the process
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        try:
            try:
                same = equal(gold, answer)
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
                same = False  # not readable as an expression
            os.write(reply, b"1" if same else b"0")
        finally:
            os._exit(0)
    os.close(reply)
"""


def _put(door: socket.socket, question: bytes, end: float) -> bytes:
    """The reply to a question, empty when whoever should answer has died; TimeoutError when there is none at `end`."""
    mine, theirs = socket.socketpair()
    with mine:
        with theirs:
            socket.send_fds(door, [question], [theirs.fileno()])
        mine.settimeout(max(0.01, end - time.monotonic()))
        return mine.recv(1)


class SymbolicChecker:
    """Owns the server. Safe to share between threads, to fork and to pickle (a copy starts its own server).

    seconds: longest wait for one comparison.
    failures: comparisons without a result, by `Comparison`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._reset()

    def _reset(self) -> None:
        self.failures: Counter[Comparison] = Counter()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._server: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._ready = self._missing = False
        self._started = self._retry = 0.0
        self._failed_starts = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]
        self._reset()

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify finds the two equal; False as well when it cannot tell. See `compare`."""
        return self.compare(gold, answer) == "equal"

    def compare(self, gold: str, answer: str) -> Comparison:
        """Compare two expressions. Returns within `seconds`, except while the server starts. Never raises."""
        if self._owner != os.getpid():
            self._reset()  # after a fork: the lock may be held by a thread that does not exist here
        found: Comparison = "too_long"
        if len(gold) <= MAX_CHARS and len(answer) <= MAX_CHARS:
            try:
                found = self._ask(gold, answer)
            except OSError:  # the server died, or there are no descriptors or processes left
                found = "unavailable"
        if found not in ("equal", "different"):
            with self._lock:
                self.failures[found] += 1
        return found

    def _ask(self, gold: str, answer: str) -> Comparison:
        door = self._open()
        if door is None:
            return "unavailable"
        start = time.monotonic()
        question = json.dumps([gold, answer, max(0.001, 0.8 * self.seconds)])
        try:
            reply = _put(door, question.encode(), start + 0.9 * self.seconds)
        except TimeoutError:  # neither an answer nor the alarm
            try:  # a comparison that is late on a busy machine is no reason to make all threads wait for a new server
                _put(door, b"ping", start + self.seconds)
            except TimeoutError:
                self.close()
            return "limit"
        if reply:
            return "equal" if reply == b"1" else "different"
        server = self._server
        return "limit" if server is not None and server.poll() is None else "unavailable"

    def _open(self) -> socket.socket | None:
        """The socket of a server that is ready, or None. Starts a server where there is none."""
        with self._lock:
            now = time.monotonic()
            late = not self._ready and now > self._started + 2 * START_SECONDS
            if self._server is not None and (self._server.poll() is not None or late):
                self._close()
            if self._server is None:
                if self._missing or now < self._retry:
                    return None
                self._start()
            if not self._ready:
                self._wait()
            return self._door if self._ready else None

    def _start(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready, self._started = False, time.monotonic()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER % {"memory": MEMORY_BYTES}, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def _wait(self) -> None:
        """Wait until the server is ready, but not longer than START_SECONDS from its start."""
        assert self._door is not None
        self._door.settimeout(max(0.001, self._started + START_SECONDS - time.monotonic()))
        try:
            message = self._door.recv(16)
        except TimeoutError:
            return
        except OSError:
            message = b""
        self._door.settimeout(SECONDS)
        self._ready = message == b"ready"
        if self._ready:
            self._failed_starts = 0
            return
        self._close()
        self._failed_starts += 1
        self._retry = time.monotonic() + min(MAX_PAUSE, 2.0**self._failed_starts)
        self._missing = message == b"missing"
        if self._missing:
            warnings.warn(
                "math-verify is not installed: answers are compared as text and numbers only, and the rest scores 0 "
                "with the reason symbolic_unavailable; install math-verify, or set symbolic=false",
                stacklevel=2,
            )

    def close(self) -> None:
        """End the server; the next question starts another one."""
        if self._owner == os.getpid():
            with self._lock:
                self._close()

    def _close(self) -> None:
        server, self._server = self._server, None
        door, self._door = self._door, None
        self._ready = False
        if door is not None:
            door.close()
        if server is not None:
            server.kill()
            server.wait()
