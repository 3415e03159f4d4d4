"""TIGER-Lab/EditReward-Data: two edits of one image, scored by people."""

from collections.abc import Iterator

from data_prep.sources.illustrated import image_pair
from data_prep.sources.record import Item, Options, Record, Source, get, kept, number, question_text, read_images


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    left, right = (number(get(record, key), f"'{key}'") for key in ("left_overall_score", "right_overall_score"))
    meta = {**kept(record, "left_model", "right_model"), "id": kept(record, "unique_key").get("unique_key")}
    yield image_pair(
        "editreward",
        question_text(get(record, "instruction"), "'instruction'"),
        read_images(record, "source_img"),
        (get(record, "left_output_image"), get(record, "right_output_image")),
        "tie" if left == right else int(right > left),
        meta,
    )


SOURCE = Source(
    "editreward",
    "TIGER-Lab/EditReward-Data",
    convert,
    licence="CC BY-NC 4.0",
    size="171k pairs",
    label_rule="the higher overall score; equal = tie",
)
