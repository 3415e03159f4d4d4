"""Units on the processes of one machine. This process is one of the workers, so that two start as fast as one.

Units are handed out one at a time, whoever is free; a worker reads its unit and writes its shards itself, so no picture
ever passes from process to process.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Lock, Thread

from data_prep.inputs import InputError
from data_prep.readers import Unit
from data_prep.worker import Job, Worker, cores

_worker: Worker | None = None


def _start_worker(job: Job, overlap: bool, parent: int) -> None:
    global _worker
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker = Worker(job, overlap=overlap)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed one cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _run_unit(unit: Unit) -> int:
    assert _worker is not None
    return _worker(unit)


def run_here(job: Job, units: Sequence[Unit], advance: Callable[[int], None]) -> None:
    """Convert units in this process; the end of one (its last row group and its note) overlaps with the next."""
    worker, last = Worker(job, overlap=cores() > 1), None
    for unit in units:
        begun = worker.begin(unit)
        if last is not None:
            advance(last.result())
        last = begun
    if last is not None:
        advance(last.result())


def run_units(job: Job, units: Sequence[Unit], workers: int, advance: Callable[[int], None]) -> None:
    """Convert units with several processes.

    Args:
        workers: processes, this one included.
        advance: called with the records of each finished unit, by one thread at a time.

    Raises:
        InputError: a worker was killed.
    """
    workers = min(workers, len(units))
    if workers <= 1:
        run_here(job, units, advance)
        return
    waiting, lock = iter(units), Lock()

    def share() -> Iterator[Unit]:
        while True:
            with lock:
                unit = next(waiting, None)
            if unit is None:
                return
            yield unit

    def finished(rows: int) -> None:
        with lock:
            advance(rows)

    # spawn: a forked child would inherit the threads' locks of pyarrow and of the tokenizer.
    context = multiprocessing.get_context("spawn")
    others, overlap = workers - 1, cores() >= 2 * workers
    with (
        ProcessPoolExecutor(others, context, _start_worker, (job, overlap, os.getpid())) as pool,
        ThreadPoolExecutor(others) as threads,
    ):

        def feed() -> None:
            nonlocal waiting
            try:
                for unit in share():
                    finished(pool.submit(_run_unit, unit).result())
            except BaseException:
                waiting = iter(())
                raise

        feeders = [threads.submit(feed) for _ in range(others)]
        try:
            worker = Worker(job, overlap=overlap)
            for unit in share():
                finished(worker(unit))
            for feeder in feeders:
                feeder.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed (out of memory?); run the same command again to go on, with fewer --workers"
            ) from error
        finally:
            waiting = iter(())  # after an error, every worker ends with the unit it has
