"""One unit after another from its records to its shards and its note."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.checks.overlap import Exclusion
from data_prep.files import replacing, write_json
from data_prep.lengths.meter import ProcessorFacts, PromptMeter
from data_prep.lengths.processor import load_processor
from data_prep.reading.inputs import inside
from data_prep.reading.units import InputUnit, read_batches
from data_prep.settings import Settings
from data_prep.sources.labels import Labels
from data_prep.sources.registry import load_source
from data_prep.tasks.ordering import Turns
from data_prep.transform import Transform, Transformed
from data_prep.writer import ShardWriter

WORK = ".work"
"""Folder, inside the output, of what a run needs to go on; removed when the manifest is written."""

ID_TYPE = np.dtype([("ordinal", np.int64), ("id", "V16"), ("compared", "V16"), ("better", np.int8)])
"""One pair in a unit's list of pairs."""


@dataclass(frozen=True)
class Job:
    """What a worker must know, apart from its unit. Can be pickled."""

    settings: Settings
    output: str
    exclusion: Exclusion | None = None
    facts: ProcessorFacts | None = None
    """About the processor that measures prompts."""
    labels: Labels | None = None
    """What the values of the label column mean."""


def meter_of(job: Job) -> PromptMeter | None:
    """What measures the prompts, if anything does."""
    settings, facts = job.settings, job.facts
    if facts is None or settings.model is None:
        return None
    load = partial(load_processor, settings.model, settings.min_pixels, settings.max_pixels)
    return PromptMeter.from_facts(facts, load)


class Worker:
    """Converts units, one after another.

    Args:
        meter: measures prompts; see `meter_of`.
    """

    def __init__(self, job: Job, meter: PromptMeter | None) -> None:
        settings = job.settings
        self.job = job
        self.output = Path(job.output)
        self.transform = Transform(
            settings,
            load_source(settings.source),
            meter=meter,
            exclusion=job.exclusion,
            image_folder=self.output / "images" if settings.images == "reference" else None,
            labels=job.labels,
        )

    def __call__(self, unit: InputUnit) -> int:
        """Convert one unit; returns its number of records."""
        base = inside(unit.file).rpartition("/")[0]
        shards: dict[str, ShardWriter] = {}
        total, turns = Transformed(), Turns(unit.first)
        try:
            for batch in read_batches(unit):
                for outcome in self.transform.portions(batch, base or ".", unit.name, turns, unit.first - unit.before):
                    for row in outcome.rows:
                        if row.split not in shards:
                            shards[row.split] = self._shard(row.split, unit)
                        shards[row.split].extend([row])
                    outcome.rows = []
                    total.add(outcome)
            entries = [{"split": split, **shard.close()} for split, shard in sorted(shards.items())]
        except BaseException:
            for shard in shards.values():
                shard.abort()
            raise
        self._note(unit, total, entries)
        return unit.rows

    def _shard(self, split: str, unit: InputUnit) -> ShardWriter:
        path = self.output / f"{split}-{unit.number:05d}.parquet"
        settings = self.job.settings
        return ShardWriter(path, embedded=settings.images == "embed", checked=settings.hashes)

    def _note(self, unit: InputUnit, total: Transformed, shards: list[dict[str, Any]]) -> None:
        work = self.output / WORK
        ids = np.empty(len(total.ids), ID_TYPE)
        columns = zip(*total.ids, strict=True) if total.ids else [()] * 4
        ids["ordinal"], id_texts, compared, ids["better"] = (list(column) for column in columns)
        ids["id"] = np.frombuffer(bytes.fromhex("".join(id_texts)), "V16")
        ids["compared"] = np.frombuffer(bytes.fromhex("".join(compared)), "V16")
        with replacing(work / f"{unit.number:05d}.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, ids)
        note = {
            "rows": unit.rows,
            "used": total.used,
            "rejected": total.rejected,
            "dropped_pairs": dict(sorted(total.dropped_pairs.items())),
            "normalised_images": dict(sorted(total.normalised.items())),
            "shards": shards,
        }
        write_json(work / f"{unit.number:05d}.json", note)
