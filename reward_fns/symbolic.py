"""math-verify behind a door: equality of two expressions, bounded in time, memory and size, from any thread.

math-verify stops a runaway computation with a POSIX alarm, which works only in the main thread; verl calls rewards from
a thread pool, where the alternative is no limit at all. A thread cannot be stopped from outside, a process can. So one
child process per reward worker does the algebra: it has a main thread of its own, a memory limit, and an alarm that
ends it if Python code does not get to run. The parent waits with `select`, kills a child that is late, and starts a new
one at the next question. A child whose parent is gone reads the end of its input and leaves.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

MAX_CHARS = 128
"""Longer expressions are not compared symbolically."""

SECONDS = 2.0
"""Time for one comparison."""

START_SECONDS = 60.0
"""Time for a child to import math-verify (3.5 s on an idle machine)."""

MEMORY_BYTES = 2 << 30
"""Address space of the child."""

# Given to the child as text, so that it also works when this file was pickled by value and has no path.
_CHILD = """
import json, logging, resource, signal, sys, os
resource.setrlimit(resource.RLIMIT_AS, (%(memory)d, %(memory)d))
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
logging.disable(logging.CRITICAL)
try:
    from math_verify import parse, verify
except ImportError:
    print("missing", file=out, flush=True)
    sys.exit()
def compare(gold, answer, seconds):
    gold, answer = (parse("$" + text + "$", parsing_timeout=seconds) for text in (gold, answer))
    return bool(gold and answer and verify(gold, answer, timeout_seconds=seconds))
compare("x+1", "1+x", 60)  # the first one loads grammars
print("ready", file=out, flush=True)
for line in sys.stdin:
    gold, answer = json.loads(line)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        equal = compare(gold, answer, %(seconds)d)
    except BaseException:
        equal = False
    print(int(equal), file=out, flush=True)
"""


class SymbolicChecker:
    """Owns the child. Safe to share between threads and to pickle (a copy starts its own child)."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._missing = False

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]
        self._reset()

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify finds the two equal within the limits; False when it does not, or cannot say."""
        if len(gold) > MAX_CHARS or len(answer) > MAX_CHARS:
            return False
        if self._owner and self._owner != os.getpid():
            self._reset()  # after a fork: the child and perhaps a held lock belong to the parent
        with self._lock:
            if not self._start():
                return False
            reply = self._ask(json.dumps([gold, answer]).encode() + b"\n", self.seconds)
            if not reply:
                self.close()
            return reply.strip() == b"1"

    def _start(self) -> bool:
        if self._missing:
            return False
        if self._child is not None and self._child.poll() is None:
            return True
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD % {"memory": MEMORY_BYTES, "seconds": max(1, int(self.seconds / 2))}],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._owner = os.getpid()
        atexit.register(self.close)
        ready = self._ask(b"", START_SECONDS).strip()
        if ready == b"ready":
            return True
        self.close()
        self._missing = True
        warnings.warn(
            "math-verify could not be loaded: answers are compared as text and numbers only; install math-verify",
            stacklevel=4,
        )
        return False

    def _ask(self, question: bytes, seconds: float) -> bytes:
        """Send a line and return the line that comes back; b"" when none does in time."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        reply = b""
        end = time.monotonic() + seconds
        try:
            child.stdin.write(question)
            child.stdin.flush()
            while not reply.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                    return b""
                part = os.read(child.stdout.fileno(), 64)
                if not part:
                    return b""
                reply += part
        except OSError:
            return b""
        return reply

    def close(self) -> None:
        """End the child, if this process started one."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
