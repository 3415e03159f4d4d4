"""OpenGVLab/MMPR, v1 to v1.2: about 3M pairs about one image or several."""

from collections.abc import Iterator

from data_prep.sources.illustrated import Illustrated, illustrated_pair
from data_prep.sources.record import Item, Options, Record, Source, checked_text, get, kept, read_images, text


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    images = () if options.text_only and record.get("image") is None else read_images(record, "image")
    request = Illustrated(checked_text(get(record, "question"), "'question'"), images)
    responses = Illustrated(text(record, "chosen")), Illustrated(text(record, "rejected"))
    yield illustrated_pair("mmpr", request, responses, 0, kept(record, "id"))


SOURCE = Source(
    "mmpr",
    "OpenGVLab/MMPR-v1.2",
    convert,
    licence="MIT",
    size="3M pairs",
    label_rule="chosen",
    needs_image_root=True,
)
