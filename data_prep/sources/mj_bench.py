"""MJ-Bench/MJ-Bench: two images for a caption; `label` is the number of the better one, from 0."""

from collections.abc import Iterator

from data_prep.sources.illustrated import image_pair
from data_prep.sources.labels import Labels
from data_prep.sources.record import Item, Options, Record, Source, get, kept, question_text

_LABELS = Labels(base=0)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    yield image_pair(
        "mj_bench",
        question_text(get(record, "caption"), "'caption'"),
        (),
        (get(record, "image0"), get(record, "image1")),
        _LABELS.read(get(record, "label"), "'label'"),
        kept(record, "id", "category", "subcategory"),
    )


SOURCE = Source(
    "mj_bench",
    "MJ-Bench/MJ-Bench",
    convert,
    licence="see card (access on request)",
    size="see card",
    label_rule="label: 0 = image0 is better, 1 = image1",
)
