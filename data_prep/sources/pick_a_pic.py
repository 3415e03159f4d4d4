"""yuvalkirstain/pickapic_v2: two images for a caption, compared by people."""

from collections.abc import Iterator

from data_prep.sources.illustrated import image_pair
from data_prep.sources.record import Item, Options, Record, Reject, Source, get, kept, number, question_text


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    if record.get("has_label") is False:
        raise Reject("unknown-label", "'has_label' is false: nobody compared these images")
    first = number(get(record, "label_0"), "'label_0'")
    if first not in (0, 0.5, 1):
        raise Reject("unknown-label", f"'label_0' is {first:g}, not 0, 0.5 or 1")
    yield image_pair(
        "pick_a_pic",
        question_text(get(record, "caption"), "'caption'"),
        (),
        (get(record, "jpg_0"), get(record, "jpg_1")),
        {0: 1, 0.5: "tie", 1: 0}[first],
        kept(record, "ranking_id", "model_0", "model_1"),
    )


SOURCE = Source(
    "pick_a_pic",
    "yuvalkirstain/pickapic_v2",
    convert,
    licence="see card",
    size="1M pairs",
    label_rule="label_0: 1 = the first, 0 = the second, 0.5 = tie",
)
