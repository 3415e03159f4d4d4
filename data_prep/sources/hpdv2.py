"""ymhao/HPDv2: images made for one prompt and ranked by people.

`train.json` has two images and `human_preference`, which is 1 for the better one; `test.json` has several images with
their ranks, 1 = best.
"""

from collections.abc import Iterator
from itertools import combinations

from data_prep.sources.illustrated import image_pair
from data_prep.sources.record import (
    MOST_RESPONSES,
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    number,
    question_text,
    sequence,
)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """All pairs of the images."""
    by_rank = "rank" in record
    images = sequence(record, "image_path" if by_rank else "file_path")
    values = [number(v, "a rank") for v in sequence(record, "rank" if by_rank else "human_preference")]
    if len(images) != len(values) or not 2 <= len(images) <= MOST_RESPONSES:
        raise Reject("bad-ranking", f"{len(images)} images with {len(values)} ranks")
    better = values if not by_rank else [-v for v in values]
    question = question_text(get(record, "prompt"), "'prompt'")
    for i, j in combinations(range(len(images)), 2):
        label = "tie" if better[i] == better[j] else int(better[j] > better[i])
        yield image_pair("hpdv2", question, (), (images[i], images[j]), label, kept(record, "id"))


SOURCE = Source(
    "hpdv2",
    "ymhao/HPDv2",
    convert,
    licence="Apache-2.0",
    size="798k comparisons",
    label_rule="human_preference: 1 = better; rank: 1 = best; equal = tie",
    needs_image_root=True,
)
