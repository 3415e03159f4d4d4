"""The end of a conversion: repeated pairs out, counts added up, card and manifest written.

One process does this, in the order of the units, over the notes they left. Images are not read again, but for the
shards that hold a duplicate pair.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.dataset_card import write_card
from data_prep.files import write_json, write_json_lines
from data_prep.reading.units import InputUnit
from data_prep.repeats import balance_orders, drop_repeats
from data_prep.sources.record import Source
from data_prep.worker import WORK, Job
from data_prep.writer import MANIFEST, manifest_of

REJECTED = "rejected.jsonl"
BUCKETS = {"tokens": 128, "characters": 512}
"""Width of a bar of the histogram of prompt lengths. Characters are counted when tokens were not."""


def finish(job: Job, units: Sequence[InputUnit], identity: dict[str, Any], source: Source) -> dict[str, Any]:
    """Merge the units' notes into `rejected.jsonl`, the card and the manifest; returns the manifest.

    Raises:
        AssertionError: records in are not records used plus records rejected; a fault of this program.
    """
    folder = Path(job.output)
    work = folder / WORK
    notes = [json.loads((work / f"{u.number:05d}.json").read_text(encoding="utf-8")) for u in units]
    ids = [np.load(work / f"{u.number:05d}.npy") for u in units]
    kept_contradictions = drop_repeats(job, notes, ids, units) if ids else 0
    if job.settings.orders == "balanced":
        balance_orders(job, notes)
    rejects: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    normalised: Counter[str] = Counter()
    for note in notes:
        rejects.update(reject["reason"] for reject in note["rejected"])
        dropped.update(note["dropped_pairs"])
        normalised.update(note["normalised_images"])
    write_json_lines(folder / REJECTED, (r for n in notes for r in sorted(n["rejected"], key=lambda r: r["row"])))
    records = {
        "in": sum(n["rows"] for n in notes),
        "used": sum(n["used"] for n in notes),
        "rejected": sum(rejects.values()),
    }
    assert records["in"] == records["used"] + records["rejected"], f"records do not add up: {records}"
    shards = [shard for note in notes for shard in note["shards"]]
    unit = "characters" if identity["settings"]["model"] is None else "tokens"
    labels, lengths = _count([folder / s["file"] for s in shards], unit)
    counts = {
        "source": {"name": source.name, "title": source.title, "licence": source.licence, "label": source.label_rule},
        "records": records,
        "rejected": dict(sorted(rejects.items())),
        "dropped_pairs": dict(sorted(dropped.items())),
        "kept_contradictions": kept_contradictions,
        "normalised_images": dict(sorted(normalised.items())),
        "label_values": job.labels and {"given": dict(sorted(job.labels.given.items())), "base": job.labels.base},
        "prompt_lengths": lengths,
    }
    manifest = manifest_of(identity, shards, labels, **counts)
    write_card(folder, manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def _count(paths: Sequence[Path], unit: str) -> tuple[dict[str, Counter[str]], dict[str, Any]]:
    """Labels by split and source, and the histogram of prompt lengths, from the small columns of the shards."""
    labels: dict[str, Counter[str]] = {}
    histogram: Counter[int] = Counter()
    longest, bucket = 0, BUCKETS[unit]
    length = "extra_info.prompt_tokens" if unit == "tokens" else "prompt.list.element.content"
    columns = ["data_source", "reward_model.ground_truth", "extra_info.split", length]
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            table = parquet.read(columns=columns, use_threads=False)
        info = table["extra_info"].combine_chunks()
        truths = pc.struct_field(table["reward_model"], "ground_truth")
        split = pc.struct_field(info, "split")
        keys = pa.table({"split": split, "source": table["data_source"], "truth": truths})
        groups = keys.group_by(keys.column_names, use_threads=False).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            own = labels.setdefault(f"{group['split']} {group['source']}", Counter())
            own[group["truth"]] += group["count_all"]
        if unit == "tokens":
            lengths = pc.struct_field(info, "prompt_tokens").to_numpy()
        else:  # one turn a row
            turns = pc.list_flatten(table["prompt"]).combine_chunks()
            lengths = pc.utf8_length(pc.struct_field(turns, "content")).to_numpy()
        starts, counts = np.unique(lengths // bucket * bucket, return_counts=True)
        histogram.update(dict(zip(starts.tolist(), counts.tolist(), strict=True)))
        longest = max(longest, int(lengths.max(initial=0)))
    bars = {str(start): count for start, count in sorted(histogram.items())}
    found = {"unit": unit, "bucket": bucket, "longest": longest, "histogram": bars}
    return labels, found
