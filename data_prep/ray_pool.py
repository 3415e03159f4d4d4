"""The same units on Ray Data, for sets and clusters of any size.

A unit is read, transformed and written by the same code as on one machine, so the bytes are the same too. The output
folder must be one that all machines see.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from data_prep.reading.inputs import InputError
from data_prep.reading.units import InputUnit
from data_prep.worker import Job, Worker, meter_of


class _RayWorker:
    """A `Worker` in the form in which Ray Data keeps one for each actor."""

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)  # paths of the job may be relative to where it was started
        self._worker = Worker(job, meter_of(job))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"rows": self._worker(InputUnit(**row))}


def run_units(job: Job, units: Sequence[InputUnit], workers: int, advance: Callable[[int], None]) -> None:
    """Convert units on Ray Data; connects to the cluster in RAY_ADDRESS, or starts one here.

    Args:
        workers: actors, one CPU each.
        advance: called with the records of each finished unit.
    """
    if not units:
        return
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, ignore_reinit_error=True)
    try:
        dataset = ray.data.from_items([asdict(u) for u in units], override_num_blocks=len(units))
        size = max(1, min(workers, len(units)))
        actors = ray.data.ActorPoolStrategy(size=size)
        done = dataset.map(_RayWorker, fn_constructor_args=(job, os.getcwd()), compute=actors, num_cpus=1)
        for row in done.iter_rows():
            advance(int(row["rows"]))
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(
            f"a Ray worker failed ({last}); on all machines critic-r1 must be installed, and the input, the image "
            f"roots, the output and the folder {os.getcwd()} must be the same"
        ) from error
    finally:
        if started_here:
            ray.shutdown()
