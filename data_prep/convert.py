"""From the files of a data set to a finished folder of tasks: units to workers, shards to disk, manifest last.

    plan units -> each unit: read, transform, write its shards, then its note -> merge the notes -> manifest

A unit's note is written after its shards, under a temporary name first; so a unit is done or not done, and a run that
was killed at any point does only the units without a note when it is started again. What needs all units (duplicates,
counts, the list of rejects) is done at the end, by one process, in the order of the units. Neither the number of
workers nor a restart can be seen in the result.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.finish import WORK, finish
from data_prep.inputs import InputError, expand_inputs, stamp
from data_prep.length import ProcessorFacts, PromptMeter
from data_prep.overlap import Exclusion
from data_prep.processor import facts_of_model, load_processor
from data_prep.readers import Unit, plan_units, read_batches
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.transform import Outcome, Transform
from data_prep.writer import MANIFEST, ShardWriter, file_sha256, write_json

ID_TYPE = np.dtype([("ordinal", np.int64), ("id", "V16")])
"""One pair in a unit's list of pairs."""

Progress = Callable[[int, int], None]
"""Called with the records done and their total."""


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


class Worker:
    """Converts units, one after another."""

    def __init__(self, job: Job) -> None:
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

    def __call__(self, unit: Unit) -> int:
        """Convert one unit; returns its number of records."""
        settings = self.job.settings
        base, _, name = unit.file.rpartition("/")
        shards: dict[str, ShardWriter] = {}
        total = Outcome()
        try:
            for batch in read_batches(unit):
                outcome = self.transform(batch, base or ".", name)
                for row in outcome.rows:
                    split = row["extra_info"]["split"]
                    if split not in shards:
                        path = self.output / f"{split}-{unit.number:05d}.parquet"
                        shards[split] = ShardWriter(path, embedded=settings.images == "embed")
                    shards[split].write(row)
                for shard in shards.values():
                    shard.settle()
                total.ids += outcome.ids
                total.rejected += outcome.rejected
                total.dropped_pairs += outcome.dropped_pairs
                total.used += outcome.used
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
        ids = np.array([(o, bytes.fromhex(i)) for o, i in total.ids], ID_TYPE)
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
                    "sha256": file_sha256(shard.path) if self.job.settings.hashes else None,
                }
                for split, shard in sorted(shards.items())
            ],
        }
        write_json(work / f"{unit.number:05d}.json", note)


_worker: Worker | None = None


def _start_worker(job: Job) -> None:
    global _worker
    _worker = Worker(job)


def _run_unit(unit: Unit) -> int:
    assert _worker is not None
    return _worker(unit)


def convert(
    inputs: Sequence[str],
    output: str | os.PathLike[str],
    settings: Settings,
    *,
    workers: int = 1,
    exclude: Sequence[str] = (),
    perceptual: bool = True,
    overwrite: bool = False,
    engine: str = "local",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert the input files into `output`; returns the manifest.

    A folder with a finished manifest of the same settings and input is left as it is. An unfinished one is continued.

    Args:
        inputs: files, globs, folders, remote addresses or hub ids.
        output: folder, made if need be.
        workers: processes; 1 works in this process. The result does not depend on it.
        exclude: prepared benchmark files whose rows are kept out.
        perceptual: whether the exclusion compares pictures that are almost the same, too.
        overwrite: throw away what is in `output` when it came from other settings.
        engine: `local`, or `ray` for Ray Data on a running or a new cluster.

    Raises:
        InputError: nothing to read, an output made with other settings, or a worker was killed.
    """
    folder = Path(output)
    files = expand_inputs(inputs)
    exclusion = Exclusion.from_files(exclude, perceptual=perceptual) if exclude else None
    identity = {
        "settings": settings.recorded(),
        "inputs": [stamp(f) for f in files],
        "exclude": exclusion.files if exclusion else {},
    }
    # Through JSON, so that it compares equal with what is read back.
    identity = json.loads(json.dumps(identity))
    if (done := _prepare_folder(folder, identity, overwrite)) is not None:
        return done
    units = plan_units(files, unit_rows=settings.unit_rows, limit=settings.limit)
    todo = [u for u in units if not _is_done(folder, u)]
    facts = None
    if settings.model is not None and todo:
        facts = facts_of_model(settings.model, settings.min_pixels, settings.max_pixels)
    job = Job(settings, str(folder), exclusion, facts)
    total = sum(u.rows for u in units)
    state = {"done": total - sum(u.rows for u in todo)}

    def advance(rows: int) -> None:
        state["done"] += rows
        if progress is not None:
            progress(state["done"], total)

    advance(0)
    if engine == "ray":
        from data_prep.distributed import run_units

        run_units(job, todo, workers, advance)
    elif workers <= 1 or len(todo) <= 1:
        if todo:
            worker = Worker(job)
            for unit in todo:
                advance(worker(unit))
    else:
        _run_pool(job, todo, workers, advance)
    manifest = finish(folder, units, identity, load_source(settings.source))
    shutil.rmtree(folder / WORK)
    return manifest


def _prepare_folder(folder: Path, identity: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Make the folder ready; the manifest if it is finished already."""
    for path in [*folder.glob(".*.tmp"), *folder.glob(f"{WORK}/.*")]:
        path.unlink()  # what a killed run was writing
    finished, started = folder / MANIFEST, folder / WORK / "identity.json"
    for path in (finished, started):
        if not path.exists():
            continue
        stored = json.loads(path.read_text(encoding="utf-8"))
        if {k: stored.get(k) for k in identity} == identity:
            return stored if path is finished else None
        if not overwrite:
            raise InputError(
                f"{folder} holds the output of other settings or other input; choose another --output, or --overwrite"
            )
        _empty(folder)
        break
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    write_json(started, identity)
    return None


def _empty(folder: Path) -> None:
    """Remove what a conversion writes, and nothing else; the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("*-[0-9][0-9][0-9][0-9][0-9].parquet"):
        path.unlink()
    for name in (WORK, "pictures", "card"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_done(folder: Path, unit: Unit) -> bool:
    path = folder / WORK / f"{unit.number:05d}.json"
    if not path.exists():
        return False
    shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
    return all((folder / s["file"]).is_file() and (folder / s["file"]).stat().st_size == s["bytes"] for s in shards)


def _run_pool(job: Job, units: Sequence[Unit], workers: int, advance: Callable[[int], None]) -> None:
    # spawn: a forked child would inherit the threads' locks of pyarrow and of the tokenizer.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(units)), context, _start_worker, (job,))
    try:
        waiting = iter(units)
        running: set[Future[int]] = {pool.submit(_run_unit, u) for u in islice(waiting, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                advance(future.result())
                if (unit := next(waiting, None)) is not None:
                    running.add(pool.submit(_run_unit, unit))
    except BrokenProcessPool as error:
        raise InputError(
            "a worker was killed (out of memory?); run the same command again to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
