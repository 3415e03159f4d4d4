"""What only all records together can show: pairs that come twice, pairs with contradictory labels, and the balance that
is left when these are gone.

Only shards that hold such pairs, or a row whose order has to be swapped, are written again. The note of their unit is
removed first, so that a run that is killed meanwhile makes the unit again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.files import replacing
from data_prep.reading.images import upright_size
from data_prep.reading.units import InputUnit
from data_prep.sources.reject import contradictory, repeated
from data_prep.tasks.pairwise import swapped_row
from data_prep.tasks.row import Row, rows_batch
from data_prep.transform import TWIN
from data_prep.worker import WORK, Job, meter_of
from data_prep.writer import WRITER_OPTIONS, file_checksum

Notes = Sequence[dict[str, Any]]


def drop_repeats(job: Job, notes: Notes, ids: Sequence[np.ndarray], units: Sequence[InputUnit]) -> int:
    """Keep the first of equal pairs and none that is labelled in two ways; correct the notes.

    Returns:
        The pairs with contradictory labels that stay, because the settings keep them.
    """
    everything = np.concatenate(ids)
    _, firsts = np.unique(everything["id"], return_index=True)
    again = np.ones(len(everything), bool)
    again[firsts] = False
    clash = _contradictory(everything)
    # A twin is left out with its pair, for the same reason.
    twin = everything["better"][1:] == TWIN
    for lost in (again, clash):
        lost[1:] |= lost[:-1] & twin
    kept_clashes = 0
    if job.settings.contradictions == "keep":
        kept_clashes = int((clash & ~again).sum())
        clash[:] = False
    gone = again | clash
    start = 0
    for unit, note, own in zip(units, notes, ids, strict=True):
        stop = start + len(own)
        if gone[start:stop].any():
            _leave_out(job, unit, note, own, again[start:stop], gone[start:stop])
        start = stop
    return kept_clashes


def _contradictory(pairs: np.ndarray) -> np.ndarray:
    """Whether each pair is labelled differently elsewhere."""
    _, group = np.unique(pairs["compared"], return_inverse=True)
    least = np.full(len(pairs), 127, np.int8)
    most = np.full(len(pairs), -1, np.int8)
    np.minimum.at(least, group, pairs["better"])
    np.maximum.at(most, group, pairs["better"])
    return np.asarray(least[group] != most[group])


def _leave_out(
    job: Job, unit: InputUnit, note: dict[str, Any], own: np.ndarray, again: np.ndarray, gone: np.ndarray
) -> None:
    """Rewrite the shards of a unit without some pairs, and correct its note."""
    keys = {(int(o), i.tobytes().hex()) for o, i in zip(own["ordinal"][gone], own["id"][gone], strict=True)}
    for shard in note["shards"]:
        with _rewriting(job, shard) as (tables, write):
            for table in tables:
                info = table["extra_info"].combine_chunks()
                index, pair_id = (pc.struct_field(info, name).to_pylist() for name in ("index", "pair_id"))
                write(table.filter(pa.array([key not in keys for key in zip(index, pair_id, strict=True)])))
    note["shards"] = [shard for shard in note["shards"] if shard["rows"]]
    alive = set(own["ordinal"][~gone].tolist())
    reasons = {True: repeated(), False: contradictory()}
    lost: dict[int, bool] = {}
    dropped: Counter[str] = Counter(note["dropped_pairs"])
    for ordinal, twice in zip(own["ordinal"][gone].tolist(), again[gone].tolist(), strict=True):
        if ordinal in alive:
            dropped[reasons[twice].reason] += 1
        else:
            lost.setdefault(ordinal, twice)
    note["dropped_pairs"] = dict(dropped)
    note["used"] -= len(lost)
    for ordinal, twice in sorted(lost.items()):
        why = reasons[twice]
        note["rejected"].append(
            {
                "row": ordinal,
                "file": unit.name,
                "row_of_file": ordinal - unit.first + unit.before,
                "reason": why.reason,
                "detail": why.detail,
                "remedy": why.remedy,
                "record": "",
            }
        )
    note["touched"] = True


def balance_orders(job: Job, notes: Notes) -> None:
    """Swap the responses of as many rows as make the better response the first in half of the rows of each split."""
    shards = [shard for note in sorted(notes, key=lambda n: not n.get("touched")) for shard in note["shards"]]
    folder = Path(job.output)
    for split in sorted({shard["split"] for shard in shards}):
        own = [shard for shard in shards if shard["split"] == split]
        firsts = [_better_first(folder / shard["file"]) for shard in own]
        surplus = sum(int((f == 1).sum()) - int((f == 0).sum()) for f in firsts)
        left = abs(surplus) // 2
        for shard, better_first in zip(own, firsts, strict=True):
            candidates = np.flatnonzero(better_first == (surplus > 0))
            if left and len(candidates):
                left -= _swap(job, shard, candidates, left)


def _better_first(path: Path) -> np.ndarray:
    """For each row 1 when the better response comes first, 0 when it comes second, -1 for ties and other tasks.

    Labels flipped for a control count as they were.
    """
    columns = ["data_source", "reward_model.ground_truth", "extra_info.label_flipped"]
    with pq.ParquetFile(path) as parquet:
        table = parquet.read(columns=columns, use_threads=False)
    truth = pc.struct_field(table["reward_model"], "ground_truth").to_pylist()
    flipped = pc.struct_field(table["extra_info"], "label_flipped").to_pylist()
    return np.array(
        [
            -1 if t not in ("1", "2") or not source.startswith("critic/") else int((t == "1") ^ bool(f))
            for source, t, f in zip(table["data_source"].to_pylist(), truth, flipped, strict=True)
        ],
        np.int8,
    )


def _swap(job: Job, shard: dict[str, Any], candidates: np.ndarray, most: int) -> int:
    """Swap the responses of the first rows of a shard that allow it; returns how many."""
    ties, limit = job.settings.ties == "keep", job.settings.max_prompt_tokens
    places, swapped, start = set(candidates.tolist()), 0, 0
    meter = meter_of(job)
    with _rewriting(job, shard) as (tables, write):
        for table in tables:
            here = [n for n in range(table.num_rows) if start + n in places] if swapped < most else []
            start += table.num_rows
            if not here:
                write(table)
                continue
            rows = [Row.of(row) for row in table.to_pylist()]
            for n in here:
                row = swapped_row(rows[n], ties=ties)
                if meter is not None:
                    sizes = [upright_size(image.data or Path(image.path or "")) for image in row.images]
                    row = row._replace(prompt_tokens=meter.measure([row.prompt], [sizes])[0])
                if limit is None or (row.prompt_tokens or 0) <= limit:
                    rows[n], swapped = row, swapped + 1
                if swapped == most:
                    break
            write(pa.Table.from_batches([rows_batch(rows, embedded=job.settings.images == "embed")]))
    return swapped


@contextmanager
def _rewriting(job: Job, shard: dict[str, Any]) -> Iterator[tuple[Iterator[pa.Table], Any]]:
    """The row groups of a shard, and a function that writes each as it should be; updates the shard's entry.

    A shard without rows is removed.
    """
    path = Path(job.output) / shard["file"]
    number = path.stem.rpartition("-")[2]
    shard["rows"] = 0
    with (
        replacing(path) as temporary,
        pq.ParquetFile(path) as parquet,
        pq.ParquetWriter(temporary, parquet.schema_arrow, **WRITER_OPTIONS) as writer,
    ):

        def write(table: pa.Table) -> None:
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)
                shard["rows"] += table.num_rows

        yield (parquet.read_row_group(group) for group in range(parquet.num_row_groups)), write
        (path.parent / WORK / f"{number}.json").unlink(missing_ok=True)
    if shard["rows"]:
        shard["bytes"] = path.stat().st_size
        shard["xxh3_128"] = shard["xxh3_128"] and file_checksum(path)
    else:
        path.unlink()
