"""sqrti/SPA-VL: safety preferences, a harmless and helpful answer against a worse one."""

from collections.abc import Iterator

from data_prep.sources.record import Item, Options, Record, Source, chosen_rejected


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    yield chosen_rejected("spa_vl", record, "question", ("image",))


SOURCE = Source("spa_vl", "sqrti/SPA-VL", convert, licence="CC BY 4.0", size="100k pairs", label_rule="chosen")
