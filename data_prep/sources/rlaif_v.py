"""openbmb/RLAIF-V-Dataset: pairs labelled by open models that check claims one by one."""

from collections.abc import Iterator

from data_prep.sources.record import Item, Options, Record, Source, chosen_rejected


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    renamed = {**record, "id": record.get("idx")} if "id" not in record else record
    yield chosen_rejected(
        "rlaif_v", renamed, "question", ("image", "image_path"), "ds_name", "origin_dataset", "origin_split"
    )


SOURCE = Source(
    "rlaif_v", "openbmb/RLAIF-V-Dataset", convert, licence="CC BY-NC 4.0", size="83k pairs", label_rule="chosen"
)
