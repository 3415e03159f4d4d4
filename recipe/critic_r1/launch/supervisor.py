"""Start a run again after a process or a machine died.

Ray does not restart verl's actors: one that dies ends the run. `supervise` runs the training in a child process and
starts it again, from the last whole checkpoint, when what ended it will probably not happen again: a dead process, a
lost machine, a broken connection. An error in configuration, data or code is reported once and not repeated.
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
"""Exit status (75) of `recipe.critic_r1.train` when a process of the run died: the same command may go on."""

SUPERVISED = "CRITIC_R1_SUPERVISED"
"""Set in the environment of the child, which then trains and does not supervise, to the number of the restart: 0 for
the first start."""

LONGEST_WAIT = 600.0
"""Seconds."""

PEER_LOST = re.compile(r"gloo\b.*(Connection (closed|reset|refused)|Timed out)", re.DOTALL)
"""What a training process says, as a plain RuntimeError, when the one that it talks to over gloo is gone; it may be
heard of before the death itself."""


def is_transient(error: BaseException) -> bool:
    """Whether ``error`` is the death of a process, a machine or a connection, and not of the run's own making."""
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
    """What a Ray task raised, out of the errors that Ray wraps around it."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def worth_restarting(status: int) -> bool:
    """Whether a child that ended with ``status`` should be started again.

    A negative status is a signal: one that a user sends to end a run (SIGINT, SIGTERM) is obeyed.
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
    """Run ``command`` until it ends well, fails for good, or was restarted ``max_restarts`` times.

    Args:
        command: The training command; from the first checkpoint on ``trainer.resume_mode=auto`` is added to it, so that
            a restart goes on where this run was, whatever the first start resumed from.
        log: The output of all starts, which is also printed.
        last_step: Step of the last whole checkpoint, None before the first.
        backoff_seconds: Wait before a restart; doubled for each start in a row that made no new checkpoint.

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
            on_tick=lambda: None,
            environment={SUPERVISED: str(restarts)},
        )
        after = last_step()
        if status == 0:
            return 0
        if not worth_restarting(status):
            _say(f"not started again: exit status {status} is an error that a restart would repeat")
            break
        if restarts == max_restarts:
            _say(f"not started again: critic_r1.recovery.max_restarts={max_restarts} is used up")
            break
        fruitless = 0 if after != before else fruitless + 1
        pause = min(backoff_seconds * 2 ** max(fruitless - 1, 0), LONGEST_WAIT)
        where = "the beginning" if after is None else f"the checkpoint of step {after}"
        _say(f"restart {restarts + 1} of {max_restarts} from {where}, in {pause:.0f} s")
        wait(pause)
    return status if status >= 0 else 128 - status


def interrupt_on_sigterm() -> None:
    """Let SIGTERM (`ray job stop`, Slurm, Kubernetes) unwind like Ctrl-C, so that the child is ended with us."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _say(text: str) -> None:
    print(f"critic-r1: {text}", file=sys.stderr, flush=True)
