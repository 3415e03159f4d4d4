"""MM-RLHF-RewardBench: 170 pairs over 46 ids, for evaluation.

Accuracy is counted over pairs (Acc) and over ids with all pairs right (Acc+), so the id must reach the row. The
category is the first part of the image's path.
"""

from collections.abc import Iterator
from dataclasses import replace

from data_prep.sources.record import Item, Options, Record, Source, chosen_rejected


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with `group` (the id) and `category` in its meta."""
    pair = chosen_rejected("mm_rlhf_rewardbench", record, "prompt", ("image",), frames=options.frames)
    path = pair.images[0].path or ""
    category = path.lstrip("./").split("/")[0] if "/" in path else None
    yield replace(
        pair, meta={**pair.meta, **({"category": category} if category else {}), "group": pair.meta.get("id")}
    )


SOURCE = Source(
    "mm_rlhf_rewardbench",
    "yifanzhang114/MM-RLHF-RewardBench",
    convert,
    licence="see card",
    size="170 pairs, 46 ids",
    label_rule="chosen",
    needs_image_root=True,
)
