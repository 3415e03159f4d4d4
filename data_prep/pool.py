"""Units on the cores of one machine, by several processes.

Units are handed out one at a time to whoever is free; a worker reads its unit and writes its shards itself, so no
image ever passes from one to another. With one worker this process does the work itself.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from threading import Thread

from data_prep.reading.inputs import InputError
from data_prep.reading.units import InputUnit
from data_prep.worker import Job, Worker, meter_of

_worker: Worker | None = None


def _start_worker(job: Job, parent: int) -> None:
    global _worker
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker = Worker(job, meter_of(job))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed one cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _run_unit(unit: InputUnit) -> int:
    assert _worker is not None
    return _worker(unit)


def run_units(job: Job, units: Sequence[InputUnit], workers: int, advance: Callable[[int], None]) -> None:
    """Convert units.

    Args:
        workers: processes; 1 works in this one.
        advance: called with the records of each finished unit.

    Raises:
        InputError: a worker was killed.
    """
    workers = min(workers, len(units))
    if workers <= 1:
        worker = Worker(job, meter_of(job))
        for unit in units:
            advance(worker(unit))
        return
    # spawn: a forked child would inherit the threads' locks of pyarrow and of the tokenizer.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (job, os.getpid())) as pool:
        try:
            for done in as_completed([pool.submit(_run_unit, unit) for unit in units]):
                advance(done.result())
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed (out of memory?); run the same command again to resume, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
