"""From the files of a data set to a finished folder of tasks: units to workers, shards to disk, manifest last.

    plan units -> each unit: read, transform, write its shards, then its note -> merge the notes -> manifest

A unit's note is written after its shards, under a temporary name first; so a unit is done or not done, and a run that
was killed at any point does only the units without a note when it is started again. What needs all units (duplicates,
counts, the list of rejects) is done at the end, by one process, in the order of the units. Neither the number of
workers nor a restart can be seen in the result.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import pool, ray_pool
from data_prep.checks.overlap import Exclusion, Texts
from data_prep.dataset_card import CARD_FILE
from data_prep.files import FolderInUseError, folder_lock, read_json, write_json
from data_prep.lengths.processor import facts_of_model
from data_prep.merge import REJECTED, finish
from data_prep.reading.inputs import InputError, expand_inputs, stamp
from data_prep.reading.label_column import survey_labels
from data_prep.reading.units import InputUnit, plan_units
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.worker import ID_TYPE, WORK, Job
from data_prep.writer import FORMAT_VERSION, MANIFEST, file_checksum, require_current

Progress = Callable[[int, int], None]
"""Called with the records done and their total."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that say there is no room: on the disk, in the user's share of it, or for a file of this size."""


def convert(
    inputs: Sequence[str],
    output: str | os.PathLike[str],
    settings: Settings,
    *,
    workers: int = 1,
    exclude: Sequence[str] = (),
    perceptual: bool = True,
    exclude_texts: Texts = "long",
    overwrite: bool = False,
    engine: str = "local",
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Convert the input files into `output`; returns the manifest.

    A folder with a finished manifest of the same settings and input is left as it is, which `tell` is told. An
    unfinished one is continued.

    Args:
        inputs: files, globs, folders, remote addresses or hub ids.
        output: folder, made if need be.
        workers: processes; 1 works in this process. The result does not depend on it.
        exclude: prepared benchmark files whose rows are kept out.
        perceptual: whether the exclusion also looks for almost equal images.
        exclude_texts: which equal texts are an overlap by themselves.
        overwrite: throw away what an earlier conversion left in `output`, whatever its settings.
        engine: `local`, or `ray` for Ray Data on a running or a new cluster.
        tell: called with what a user should know: that nothing was to be done, or that lengths take long.

    Raises:
        InputError: nothing to read, labels with more than one meaning, an output of other settings or of input that has
            changed since, files in `output` that no conversion made, no room or no folder there, or a killed worker.
    """
    folder = Path(output)
    files = expand_inputs(inputs, output=folder)
    source = load_source(settings.source)
    if settings.columns and source.name != "generic" and not source.own:
        raise InputError(f"--map is for `generic`; {source.name} knows the columns of {source.title}")
    if settings.label_values and source.label is None:
        raise InputError(f"--label-values has no meaning for {source.name}, whose label is: {source.label_rule}")
    exclusion = Exclusion.from_files(exclude, perceptual=perceptual, texts=exclude_texts) if exclude else None
    identity: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "settings": settings.recorded(),
        "inputs": [stamp(f) for f in files],
        "exclude": exclusion.files if exclusion else [],
    }
    if exclusion is not None:
        identity |= {"near": perceptual, "exclude_texts": exclude_texts}
    if source.own:
        identity["source_xxh3_128"] = file_checksum(Path(settings.source.rpartition(":")[0]))
    # Through JSON, so that it compares equal with what is read back.
    identity = json.loads(json.dumps(identity))
    with _held(folder):
        done = _prepare_folder(folder, identity, overwrite, files)
        if exclusion is not None and exclusion.unreadable and tell is not None:
            tell(f"{exclusion.unreadable} images of --exclude cannot be read, and nothing is kept out because of them")
        if done is not None:
            if tell is not None:
                tell(f"{folder} was made already, with these settings of these files; --overwrite makes it again")
            return done
        units = plan_units(files, unit_rows=settings.unit_rows, limit=settings.limit)
        todo = [u for u in units if not _is_done(folder, u)]
        facts = None
        if settings.model is not None and todo:
            facts = facts_of_model(settings.model, settings.min_pixels, settings.max_pixels)
            if facts.slow is not None and tell is not None:
                tell(
                    f"lengths are counted by `tokenizers`, which takes many times as long as `fastokens`: {facts.slow}"
                )
        try:
            labels = survey_labels(units, source, settings)
        except InputError:
            if len(todo) == len(units):  # nothing is lost, and other options may be given for the same folder
                shutil.rmtree(folder / WORK)
            raise
        job = Job(settings, str(folder), exclusion, facts, labels)
        total = sum(u.rows for u in units)
        state = {"done": total - sum(u.rows for u in todo)}

        def advance(rows: int) -> None:
            state["done"] += rows
            if progress is not None:
                progress(state["done"], total)

        advance(0)
        run_units = ray_pool.run_units if engine == "ray" else pool.run_units
        run_units(job, todo, workers, advance)
        manifest = finish(job, units, identity, source)
        shutil.rmtree(folder / WORK)
        return manifest


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the output folder, and say what is wrong with it.

    Raises:
        InputError: another command writes into it, there is no room, or it cannot be a folder.
    """
    try:
        with folder_lock(folder, "critic-r1 prepare"):
            yield
    except FolderInUseError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"{folder}: {os.strerror(error.errno)}; make room and run the same command again, which resumes from"
                " here"
            ) from error
        if (folder / WORK).is_dir():
            raise
        raise InputError(f"{folder} cannot be the output ({error}); repair it or choose another --output") from error


def _prepare_folder(
    folder: Path, identity: dict[str, Any], overwrite: bool, files: Sequence[str]
) -> dict[str, Any] | None:
    """Make the folder ready; the manifest if it is finished already."""
    finished, started = folder / MANIFEST, folder / WORK / "identity.json"
    if link := next((folder / n for n in (WORK, "images", "card") if (folder / n).is_symlink()), None):
        raise InputError(f"{link} is a symbolic link, and nothing is written through one; choose another --output")
    begun = next((path for path in (finished, started) if path.exists()), None)
    if begun is None and (foreign := next(_written_names(folder), None)) is not None:
        raise InputError(f"{foreign} would be overwritten, and no conversion made it; choose another --output")
    for path in [*folder.glob(".*.tmp"), *folder.glob(f"{WORK}/.*")]:
        path.unlink()  # what a killed run was writing
    if begun is not None and overwrite:
        (folder / WORK).mkdir(exist_ok=True)
        write_json(started, {})  # so that a folder that is half empty after a kill is known as ours
        _empty(folder)
    elif begun is not None:
        stored = _stored(begun)
        require_current(folder)
        if stored.get("format", FORMAT_VERSION) != FORMAT_VERSION:
            raise InputError(f"{folder} is of another version of critic-r1; run the command again with --overwrite")
        if {k: stored.get(k) for k in identity} != identity:
            raise InputError(
                f"{folder} holds the output of other settings or other input; choose another --output, or --overwrite"
            )
        made = begun.stat().st_mtime
        if changed := next((f for f in files if "://" not in f and os.path.getmtime(f) > made), None):
            raise InputError(f"{changed} has changed since {folder} was made of it; choose another, or --overwrite")
        return stored if begun is finished else None
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    write_json(started, identity)
    return None


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = read_json(path)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); choose another --output, or --overwrite") from error
    return stored if isinstance(stored, dict) else {}


_SHARDS = "*-[0-9][0-9][0-9][0-9][0-9].parquet"


def _written_names(folder: Path) -> Iterator[Path]:
    """What lies where a conversion will write."""
    names = [folder / name for name in (MANIFEST, REJECTED, CARD_FILE, WORK, "images", "card")]
    yield from (path for path in [*sorted(folder.glob(_SHARDS)), *names] if path.exists())


def _empty(folder: Path) -> None:
    """Remove what a conversion writes, and nothing else; the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(_SHARDS):
        path.unlink()
    for path in folder.glob(f"{WORK}/[0-9]*"):
        path.unlink()
    for name in ("images", "card"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_done(folder: Path, unit: InputUnit) -> bool:
    """Whether a unit's note and its shards are there and whole. What is not as a worker wrote it is made again."""
    note = folder / WORK / f"{unit.number:05d}.json"
    try:
        found = read_json(note)
        shards = [(folder / s["file"], s["bytes"]) for s in found["shards"]]
        ids = np.load(note.with_suffix(".npy"))
        whole = found["rows"] == unit.rows and ids.dtype == ID_TYPE and found.keys() >= _NOTED
        return whole and all(
            path.parent == folder
            and path.name.endswith(f"-{unit.number:05d}.parquet")
            and not path.is_symlink()
            and path.stat().st_size == size
            for path, size in shards
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
        return False


_NOTED = {"rows", "used", "rejected", "dropped_pairs", "normalised_images", "shards"}
"""Keys of a unit's note."""
