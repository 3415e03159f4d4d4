"""yifanzhang114/MM-RLHF: `dpo_pairs.jsonl`, pairs ranked by people. Rows about videos need `--frames`."""

from collections.abc import Iterator

from data_prep.sources.record import Item, Options, Record, Source, chosen_rejected


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair. The annotators' reasons are left out, as the paper leaves out its judge's."""
    yield chosen_rejected("mm_rlhf", record, "prompt", ("image",), frames=options.frames)


SOURCE = Source(
    "mm_rlhf",
    "yifanzhang114/MM-RLHF",
    convert,
    licence="see card",
    size="120k pairs, videos among them",
    label_rule="chosen",
    needs_image_root=True,
)
