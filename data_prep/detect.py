"""Which source reads a set, found out from its first records: `prepare auto`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.reading.inputs import InputError
from data_prep.reading.label_column import survey_labels
from data_prep.reading.records import options_of
from data_prep.reading.units import InputUnit, plan_units, read_unit
from data_prep.settings import Settings
from data_prep.sources.record import Source
from data_prep.sources.registry import NAMES, load_source
from data_prep.sources.reject import Reject
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import PreferencePair

RECORDS = 100
"""Records that are looked at."""

LEAST_SHARE = 0.95
"""Share of them that a source must read."""

EXAMPLES = 3


@dataclass
class Detected:
    """The source that reads a set."""

    source: str
    read: int
    """Records that it reads, of `seen`."""
    seen: int
    examples: list[str] = field(default_factory=list)
    """How it reads the first ones, a few lines each."""


def detect(files: Sequence[str], settings: Settings) -> Detected:
    """The only source that reads the first records of the first file; `generic` where it reads them, too.

    Args:
        settings: its columns and label values apply to `generic`.

    Raises:
        InputError: no source reads them, or several do and not `generic`; the message says what each lacks.
    """
    units = plan_units(files[:1], limit=RECORDS)
    records = [record for unit in units for _, record in read_unit(unit) if isinstance(record, Mapping)]
    if not records:
        raise InputError(f"{files[0]}: none of its first records can be read")
    results = {name: _try(load_source(name), records, units, settings) for name in ("generic", *NAMES)}
    fitting = [name for name, (read, _, _) in results.items() if read >= LEAST_SHARE * len(records)]
    if not fitting:
        best = sorted(results, key=lambda name: -results[name][0])[:2]
        why = "; ".join(f"{name}: {reason} ({n} of {len(records)})" for name in dict.fromkeys(["generic", *best])
                        for reason, n in results[name][2].most_common(1))  # fmt: skip
        columns = ", ".join(sorted(map(str, records[0]))[:20])
        raise InputError(
            f"{files[0]}: no source reads these records. They have: {columns}. {why}. Name the columns for `prepare"
            " generic` with --map, or write a source (docs/data.md)."
        )
    if "generic" not in fitting and len(fitting) > 1:
        raise InputError(f"{files[0]}: several sources read these records: {', '.join(fitting)}. Name one of them.")
    read, examples, _ = results[fitting[0]]
    return Detected(fitting[0], read, len(records), examples)


def _try(
    source: Source, records: Sequence[Mapping[str, Any]], units: Sequence[InputUnit], settings: Settings
) -> tuple[int, list[str], Counter[str]]:
    """How many records a source reads, how it reads the first ones, and why it rejects the others."""
    read, problems = 0, Counter[str]()
    examples: list[str] = []
    try:
        options = options_of(settings, survey_labels(units, source, settings))
    except InputError as error:
        return 0, [], Counter({str(error): len(records)})
    for record in records:
        try:
            items = [item for item in source.convert(record, options) if not isinstance(item, Reject)]
        except Reject as problem:
            problems[problem.detail] += 1
            continue
        read += bool(items)
        if items and len(examples) < EXAMPLES:
            examples.append(_shown(items[0]))
    return read, examples, problems


def _shown(item: Any) -> str:
    """A few lines that show how a record is read."""
    lines = [f"images: {len(item.images)}", f"question: {item.question!r:.160}"]
    if isinstance(item, PreferencePair):
        better = "tie" if item.preferred == "tie" else ("first", "second")[item.preferred]
        lines += [f"first: {item.responses[0]!r:.160}", f"second: {item.responses[1]!r:.160}", f"better: {better}"]
    elif isinstance(item, RankedResponses):
        lines += [f"rank {rank:g}: {text!r:.160}" for rank, text in zip(item.ranks, item.responses, strict=True)]
    return "\n".join(lines)
