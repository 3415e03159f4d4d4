"""MizzenAI/HPDv3, and EditReward's training files in the same form: the image at `path1` is preferred.

With `path_src` the request is an edit of that image. `tie_case` makes a tie.
"""

from collections.abc import Iterator

from data_prep.sources.illustrated import image_list, image_pair
from data_prep.sources.record import Item, Options, Record, Source, get, kept, question_text


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    yield image_pair(
        "hpdv3",
        question_text(get(record, "prompt"), "'prompt'"),
        image_list(record.get("path_src"), "'path_src'"),
        (get(record, "path1"), get(record, "path2")),
        "tie" if record.get("tie_case") is True else 0,
        kept(record, "id", "model1", "model2", "confidence"),
    )


SOURCE = Source(
    "hpdv3",
    "MizzenAI/HPDv3",
    convert,
    licence="MIT",
    size="1.17M pairs",
    label_rule="path1 is better; tie_case = tie",
    needs_image_root=True,
)
