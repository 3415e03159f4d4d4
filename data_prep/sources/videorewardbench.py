"""Dragonriser/VideoRewardBench: answers to questions about videos, for evaluation. Rows need `--frames`.

The paper (arXiv 2509.00484) publishes triplets of a prompt with its video, a chosen and a rejected response, in five
categories. They are read under the usual names of columns; `images` may hold frames that were taken beforehand.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from data_prep.sources.record import Item, Options, Record, Source, chosen_rejected, kept

_CATEGORY = ("category", "dimension", "subset", "task_type", "type")
_VIDEO = ("video", "video_path", "video_file")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with its category in its meta, as `long_form_perception`."""
    video = next((record[key] for key in _VIDEO if record.get(key) is not None), None)
    question = "prompt" if record.get("question") is None and "prompt" in record else "question"
    pair = chosen_rejected("videorewardbench", {**record, "video": video}, question, ("images",), frames=options.frames)
    found = kept(record, *_CATEGORY)
    if found:
        category = re.sub(r"[^a-z0-9]+", "_", str(next(iter(found.values()))).lower()).strip("_")
        pair = replace(pair, meta={**pair.meta, "category": category})
    yield pair


SOURCE = Source(
    "videorewardbench",
    "Dragonriser/VideoRewardBench",
    convert,
    licence="see card",
    size="1,563 pairs: long-form and short-form perception, knowledge, reasoning, safety",
    label_rule="chosen",
    needs_image_root=True,
)
