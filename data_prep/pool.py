"""Units on the cores of one machine, by threads of this process or by several processes.

Units are handed out one at a time, whoever is free; a worker reads its unit and writes its shards itself, so no image
ever passes from one to another. This process is one of the workers, so that two start as fast as one.

A second thread makes use of a second core, since Arrow and the hashes leave Python's lock alone; a third would wait for
it. From there on, processes.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Lock, Thread

from data_prep.lengths.meter import PromptMeter
from data_prep.reading.inputs import InputError
from data_prep.reading.units import Unit
from data_prep.worker import Job, Worker, fewer_pauses, meter_of

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


def _run_unit(unit: Unit) -> int:
    assert _worker is not None
    with fewer_pauses():
        return _worker(unit)


def run_units(job: Job, units: Sequence[Unit], workers: int, advance: Callable[[int], None]) -> None:
    """Convert units.

    Args:
        workers: processes, this one included. One uses two cores where there are two, several use one each.
        advance: called with the records of each finished unit, by one thread at a time.

    Raises:
        InputError: a worker was killed.
    """
    if not units:
        return
    waiting, lock = iter(units), Lock()

    def work(convert: Callable[[Unit], int]) -> None:
        nonlocal waiting
        try:
            while True:
                with lock:
                    unit = next(waiting, None)
                if unit is None:
                    return
                rows = convert(unit)
                with lock:
                    advance(rows)
        except BaseException:
            waiting = iter(())  # every other worker ends with the unit it has
            raise

    meter = meter_of(job)
    with (
        _helpers(job, meter, min(workers, len(units))) as helpers,
        ThreadPoolExecutor(max(1, len(helpers))) as threads,
        fewer_pauses(),
    ):
        others = [threads.submit(work, helper) for helper in helpers]
        try:
            work(Worker(job, meter))
            for other in others:
                other.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed (out of memory?); run the same command again to go on, with fewer --workers"
            ) from error


@contextmanager
def _helpers(job: Job, meter: PromptMeter | None, workers: int) -> Iterator[list[Callable[[Unit], int]]]:
    """What converts units beside this thread: another thread, or the other processes."""
    if workers <= 1:
        yield [Worker(job, meter)] if cores() > 1 else []
        return
    # spawn: a forked child would inherit the threads' locks of pyarrow and of the tokenizer.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers - 1, context, _start_worker, (job, os.getpid())) as pool:
        yield [lambda unit: pool.submit(_run_unit, unit).result()] * (workers - 1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
