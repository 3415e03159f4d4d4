"""The pass over the label column before a conversion."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_prep.reading.parquet_files import group_batches, open_parquet
from data_prep.reading.records import options_of
from data_prep.reading.units import InputUnit, read_unit
from data_prep.settings import Settings
from data_prep.sources.labels import Labels, Survey, parse_label_values
from data_prep.sources.record import Source


def survey_labels(units: Sequence[InputUnit], source: Source, settings: Settings) -> Labels | None:
    """What the labels of all records mean; None when the source has no label column.

    Records are read one by one, from Parquet files without their images, so memory use is constant and the result
    depends on the input only.

    Raises:
        InputError: the values allow more than one meaning.
    """
    if source.label is None:
        return None
    survey = Survey(parse_label_values(settings.label_values), source.label_base)
    options = options_of(settings)
    for unit in units:
        for record in _light_records(unit):
            if isinstance(record, Mapping) and (label := source.label(record, options)) is not None:
                survey.add(label)
    return survey.labels()


def _light_records(unit: InputUnit) -> Iterator[Any]:
    """The records of a unit; those of a Parquet file without columns of bytes.

    A unit that cannot be read is left to the conversion, which rejects its records.
    """
    if unit.kind != "parquet":
        yield from (record for _, record in read_unit(unit))
        return
    try:
        with open_parquet(unit.file) as parquet:
            columns = [field.name for field in parquet.schema_arrow if not _holds_bytes(field.type)]
            for group in range(unit.start, unit.stop):
                for batch in group_batches(parquet, unit.file, group, columns, 1024):
                    yield from batch.to_pylist()
    except (OSError, pa.ArrowException, ValueError):
        return


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
