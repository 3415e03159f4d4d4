"""From the files of a data set to a finished folder of tasks: units to workers, shards to disk, manifest last.

    plan units -> each unit: read, transform, write its shards, then its note -> merge the notes -> manifest

A unit's note is written after its shards, under a temporary name first; so a unit is done or not done, and a run that
was killed at any point does only the units without a note when it is started again. What needs all units (duplicates,
counts, the list of rejects) is done at the end, by one process, in the order of the units. Neither the number of
workers nor a restart can be seen in the result.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep import distributed, pool
from data_prep.finish import finish
from data_prep.inputs import InputError, expand_inputs, stamp
from data_prep.overlap import Exclusion
from data_prep.processor import facts_of_model
from data_prep.readers import Unit, plan_units
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.worker import WORK, Job
from data_prep.writer import MANIFEST, write_json

Progress = Callable[[int, int], None]
"""Called with the records done and their total."""


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
        "exclude": exclusion.files if exclusion else [],
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
    run_units = distributed.run_units if engine == "ray" else pool.run_units
    run_units(job, todo, workers, advance)
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
