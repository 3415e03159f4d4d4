"""zhiqings/LLaVA-Human-Preference-10K: two answers to the last turn of a conversation, compared by people.

The file is one JSON list and names COCO images, which it does not ship. A last turn of the assistant marks the place of
the two answers and is left out. Earlier turns are part of the question, since a judge must know what was already said.
"""

from collections.abc import Iterator

from data_prep.sources.conversations import images_of, question_of, read_response, read_turns
from data_prep.sources.labels import RawLabel
from data_prep.sources.record import Item, Options, Record, Source, get, kept, make_pair, read_images


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    turns = read_turns(get(record, "conversations"), "'conversations'")
    if turns[-1].speaker == "Assistant":
        turns.pop()
    responses = (
        read_response(get(record, "output_1"), "'output_1'").text,
        read_response(get(record, "output_2"), "'output_2'").text,
    )
    label = options.labels.read(get(record, "preference"), "'preference'")
    images = images_of(turns, read_images(record, "image"))
    yield make_pair("llava_human_preference", images, question_of(turns), responses, label, kept(record, "id"))


SOURCE = Source(
    "llava_human_preference",
    "zhiqings/LLaVA-Human-Preference-10K",
    convert,
    licence="CC BY-NC 4.0 (its project page)",
    size="9.4k pairs",
    label_rule="preference: 1 or 2, by people",
    label=lambda record, options: RawLabel(record.get("preference")),
    label_base=1,
    needs_image_root=True,
)
