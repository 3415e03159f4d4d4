"""TIGER-Lab/GenAI-Bench, the parts about images: two generated or edited images and a vote. Videos are rejected."""

from collections.abc import Iterator

from data_prep.sources.illustrated import image_list, image_pair
from data_prep.sources.labels import RawLabel
from data_prep.sources.record import Item, Options, Record, Reject, Source, get, kept, question_text


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    if any("video" in str(key) for key in record):
        raise Reject("video", "the record compares videos; only images are converted")
    edit = "left_output_image" in record
    asked = get(record, "instruct_prompt" if edit else "prompt")
    sides = ("left_output_image", "right_output_image") if edit else ("left_image", "right_image")
    yield image_pair(
        "genai_bench",
        question_text(asked, "the prompt"),
        image_list(get(record, "source_image"), "'source_image'") if edit else (),
        (get(record, sides[0]), get(record, sides[1])),
        options.labels.read(get(record, "vote_type"), "'vote_type'"),
        kept(record, "id", "left_model", "right_model"),
    )


SOURCE = Source(
    "genai_bench",
    "TIGER-Lab/GenAI-Bench",
    convert,
    licence="see card",
    size="image parts only",
    label_rule="vote_type: leftvote, rightvote; tievote and bothbad_vote = tie",
    label=lambda record, options: RawLabel(record.get("vote_type")),
)
