"""One unit after another from its records to its shards and its note.

Where a worker has more than one core, three things overlap, since Arrow and the hashes leave Python's lock alone: the
next batch is read while this one is transformed, and the last row group is written and hashed meanwhile. The rows keep
their order, so none of it can be seen in the result.
"""

import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.inputs import inside
from data_prep.length import ProcessorFacts, PromptMeter
from data_prep.ordering import Turns
from data_prep.overlap import Exclusion
from data_prep.processor import load_processor
from data_prep.readers import Unit, ahead, read_batches
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.transform import Outcome, Transform
from data_prep.writer import ShardWriter, write_json

WORK = ".work"
"""Folder, inside the output, of what a run needs to go on; removed when the manifest is written."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold Python's lock while another waits for it."""

ID_TYPE = np.dtype([("ordinal", np.int64), ("id", "V16")])
"""One pair in a unit's list of pairs."""


@dataclass(frozen=True)
class Job:
    """What a worker must know, apart from its unit. Can be pickled."""

    settings: Settings
    output: str
    exclusion: Exclusion | None = None
    facts: ProcessorFacts | None = None
    """About the processor that measures prompts."""


def _meter(job: Job) -> PromptMeter | None:
    settings, facts = job.settings, job.facts
    if facts is None or settings.model is None:
        return None
    load = partial(load_processor, settings.model, settings.min_pixels, settings.max_pixels)
    return PromptMeter.from_facts(facts, load)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _fewer_pauses() -> Iterator[None]:
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    # Good records make no cycles: the collector would only look, again and again, through all that is loaded.
    gc.disable()
    # A thread that comes back from Arrow waits up to this long for Python's lock: 5 ms are half a batch.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


class Worker:
    """Converts units, one after another.

    Args:
        overlap: whether to read and write in threads; of use with two cores or more.
    """

    def __init__(self, job: Job, *, overlap: bool = False) -> None:
        settings = job.settings
        self.job = job
        self.output = Path(job.output)
        self.transform = Transform(
            settings,
            load_source(settings.source),
            meter=_meter(job),
            exclusion=job.exclusion,
            picture_folder=self.output / "pictures" if settings.images == "reference" else None,
        )
        # One reads, one writes, one finishes a unit (and may wait for the one that writes).
        self._threads = ThreadPoolExecutor(3) if overlap else None

    def __call__(self, unit: Unit) -> int:
        """Convert one unit; returns its number of records."""
        return self.begin(unit).result()

    def begin(self, unit: Unit) -> Future[int]:
        """Convert one unit up to its last row group; the future ends with its note, and gives its number of records.

        The next unit may begin before that.
        """
        base = inside(unit.file).rpartition("/")[0]
        shards: dict[str, ShardWriter] = {}
        total, turns = Outcome(), Turns(unit.first)
        batches = read_batches(unit)
        try:
            with _fewer_pauses():
                for batch in ahead(batches, self._threads) if self._threads else batches:
                    for outcome in self.transform.portions(
                        batch, base or ".", unit.name, turns, unit.first - unit.before
                    ):
                        if outcome.rejected or outcome.dropped_pairs:
                            gc.collect(0)  # the errors of broken pictures make cycles, and would keep them
                        for split in dict.fromkeys(row.split for row in outcome.rows):
                            if split not in shards:
                                shards[split] = self._shard(split, unit)
                            shards[split].extend(row for row in outcome.rows if row.split == split)
                        for shard in shards.values():
                            shard.settle()
                        outcome.rows = []
                        total.add(outcome)
        except BaseException:
            for shard in shards.values():
                shard.abort()
            raise
        if self._threads is not None:
            return self._threads.submit(self._end, unit, total, shards)
        done: Future[int] = Future()
        done.set_result(self._end(unit, total, shards))
        return done

    def _shard(self, split: str, unit: Unit) -> ShardWriter:
        path = self.output / f"{split}-{unit.number:05d}.parquet"
        settings = self.job.settings
        return ShardWriter(path, embedded=settings.images == "embed", hashed=settings.hashes, threads=self._threads)

    def _end(self, unit: Unit, total: Outcome, shards: dict[str, ShardWriter]) -> int:
        try:
            for shard in shards.values():
                shard.close()
        except BaseException:
            for shard in shards.values():
                shard.abort()
            raise
        self._note(unit, total, shards)
        return unit.rows

    def _note(self, unit: Unit, total: Outcome, shards: dict[str, ShardWriter]) -> None:
        work = self.output / WORK
        ids = np.empty(len(total.ids), ID_TYPE)
        ids["ordinal"] = [ordinal for ordinal, _ in total.ids]
        ids["id"] = np.frombuffer(bytes.fromhex("".join(i for _, i in total.ids)), "V16")
        temporary = work / f".{unit.number:05d}.{os.getpid()}.npy"
        np.save(temporary, ids)
        os.replace(temporary, work / f"{unit.number:05d}.npy")
        note = {
            "rows": unit.rows,
            "used": total.used,
            "rejected": total.rejected,
            "dropped_pairs": dict(sorted(total.dropped_pairs.items())),
            "shards": [
                {
                    "file": shard.path.name,
                    "split": split,
                    "rows": shard.rows,
                    "bytes": shard.path.stat().st_size,
                    "sha256": shard.sha256,
                }
                for split, shard in sorted(shards.items())
            ],
        }
        write_json(work / f"{unit.number:05d}.json", note)
