"""Restart a run after a process or a machine died.

Ray does not restart verl's actors, so one that dies ends the run. `supervise` runs the training in a child process and
restarts it from the last complete checkpoint when the cause is transient: a dead process, a lost machine, a broken
connection. An error in configuration, data or code is reported, and the run is not restarted.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recipe.critic_r1.launch import processes

TRANSIENT = os.EX_TEMPFAIL
"""Exit status (75) of `recipe.critic_r1.train` when a process of the run died; the same command can resume it."""

SUPERVISED = "CRITIC_R1_SUPERVISED"
"""Environment variable with the number of restarts so far; a process that has it trains and does not supervise."""

LONGEST_WAIT = 600.0
"""Seconds."""

PEER_LOST = re.compile(r"gloo\b.*(Connection (closed|reset|refused)|Timed out)", re.DOTALL)
"""Message of the plain RuntimeError that a training process raises when its gloo peer is gone; it may reach us before
the report that the peer died."""


def is_transient(error: BaseException) -> bool:
    """Whether ``error`` is the loss of a process, a machine or a connection."""
    import ray.exceptions as failures
    from torch.distributed import DistError

    from recipe.critic_r1.launch.watchdog import WorkerDied

    kinds = (
        failures.RayActorError,
        failures.WorkerCrashedError,
        failures.NodeDiedError,
        failures.OutOfMemoryError,
        failures.ObjectLostError,
        WorkerDied,
        DistError,
        ConnectionError,
    )
    cause = cause_of(error)
    return isinstance(cause, kinds) or PEER_LOST.search(str(cause)) is not None


def cause_of(error: BaseException) -> BaseException:
    """What a Ray task raised, without the errors that Ray wraps around it."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def worth_restarting(status: int) -> bool:
    """Whether a child with this exit status should be restarted.

    A negative status is a signal; after SIGINT and SIGTERM, which users send to end a run, there is no restart.
    """
    return status == TRANSIENT or (status < 0 and -status not in (signal.SIGINT, signal.SIGTERM))


def supervise(
    command: Sequence[str],
    *,
    log: Path,
    last_step: Callable[[], int | None],
    max_restarts: int,
    backoff_seconds: float,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Run ``command`` until it succeeds, fails for good, or was restarted ``max_restarts`` times.

    Args:
        command: The training command. Once this run has written a checkpoint, ``trainer.resume_mode=auto`` is added, so
            that a restart resumes from it, whatever the first start resumed from.
        log: Receives the output of all starts, which is also printed.
        last_step: Returns the step of the last complete checkpoint, None before the first.
        backoff_seconds: Wait before a restart; doubled for each consecutive start without a new checkpoint.

    Returns:
        Exit status of the last start; 128 + the signal when a signal ended it.
    """
    began_at, fruitless = last_step(), 0
    for restarts in range(max_restarts + 1):
        before = last_step()
        resume = ["trainer.resume_mode=auto"] if before is not None and before != began_at else []
        status = processes.follow(
            [*command, *resume],
            log,
            on_line=lambda line: print(line, flush=True),
            environment={SUPERVISED: str(restarts)},
        )
        after = last_step()
        if status == 0:
            return 0
        if not worth_restarting(status):
            _say(f"not restarted: exit status {status} is an error that would happen again")
            break
        if restarts == max_restarts:
            _say(f"not restarted: critic_r1.recovery.max_restarts={max_restarts} is used up")
            break
        fruitless = 0 if after != before else fruitless + 1
        pause = min(backoff_seconds * 2 ** max(fruitless - 1, 0), LONGEST_WAIT)
        where = "the beginning" if after is None else f"the checkpoint of step {after}"
        _say(f"restart {restarts + 1} of {max_restarts} from {where}, in {pause:.0f} s")
        wait(pause)
    return status if status >= 0 else 128 - status


def interrupt_on_sigterm() -> None:
    """Make SIGTERM (`ray job stop`, Slurm, Kubernetes) unwind like Ctrl-C, so that the child process is ended too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _say(text: str) -> None:
    print(f"critic-r1: {text}", file=sys.stderr, flush=True)
