"""HongbangYuan/OmniRewardBench: pairs with a label for each criterion, for evaluation.

The same pair comes with several criteria and several labels, so the criterion is part of the question. Responses are
texts, or images named by file (in `response1_path`, or in `response1` where that is a file's name). Videos and sounds
as responses are rejected.
"""

import re
from collections.abc import Iterator

from data_prep.sources.illustrated import Illustrated, illustrated_pair
from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    question_text,
    read_image,
    read_images,
    text,
    with_frame_mark,
)
from data_prep.tasks.prompts import MARKER, neutralise

CRITERION = "Judge by this criterion only, whatever else is better or worse: "

_IMAGE = re.compile(r"[^\n]{1,400}\.(?:jpe?g|png|webp|gif|bmp)", re.IGNORECASE)
_OTHER = re.compile(r"[^\n]{1,400}\.(?:mp4|webm|avi|mov|mkv|wav|mp3|flac|ogg)", re.IGNORECASE)


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with the kind of task as `category` in its meta."""
    if record.get("audio") is not None:
        raise Reject("unshown-part", "the record is about a sound; only images and frames are converted")
    responses = _response(record, "response1"), _response(record, "response2")
    about = next((key for key in ("image", "image_path", "video") if record.get(key) not in (None, "", [])), None)
    images = read_images(record, "image", "image_path", frames=options.frames) if about else ()
    asked = with_frame_mark(images, question_text(get(record, "prompt"), "'prompt'"))
    judged = f"{asked}\n\n{CRITERION}{text(record, 'criteria')}".replace(MARKER, neutralise(MARKER))
    request = Illustrated(f"{MARKER * len(images)}\n{judged}".strip(), images)
    kind = {None: "", "video": "_video"}.get(about, "_image")
    task = f"text{kind}_to_{'image' if responses[0].images else 'text'}"
    better = options.labels.read(get(record, "criteria_preference"), "'criteria_preference'")
    meta = {**kept(record, "id", "source", "model1", "model2"), "category": task}
    yield illustrated_pair("omni_rewardbench", request, responses, better, meta)


def _response(record: Record, name: str) -> Illustrated:
    given = record.get(f"{name}_path")
    value = given if given is not None else text(record, name)
    if isinstance(value, str) and _OTHER.fullmatch(value):
        raise Reject("video", f"'{name}' is a video or a sound; only texts and images are converted")
    if given is not None or (isinstance(value, str) and _IMAGE.fullmatch(value)):
        return Illustrated(MARKER, (read_image(value, f"'{name}'"),))
    return Illustrated(text(record, name))


SOURCE = Source(
    "omni_rewardbench",
    "HongbangYuan/OmniRewardBench",
    convert,
    licence="see card",
    size="3,725 pairs; those of texts and images are read",
    label_rule="criteria_preference: response1, response2 or tie",
    label=lambda record, options: RawLabel(record.get("criteria_preference"), ("response1", "response2")),
    needs_image_root=True,
)
