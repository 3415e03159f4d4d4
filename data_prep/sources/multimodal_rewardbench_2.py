"""Multimodal RewardBench 2 (facebookresearch/MMRB2): four tasks of 1,000 pairs, for evaluation.

Read as re-published in columns, where `<image_0>`, `<image_1>`, ... in a text are the places of its images, and as
the release builds it, a JSON object `{"pairs": [...]}` with parts `["text", ...]` and `["image", PATH]`. The task is
that of the set that the prompt is from.
"""

import re
from collections.abc import Iterator

from data_prep.sources.illustrated import Illustrated, illustrated, illustrated_pair, image_list, of_parts
from data_prep.sources.labels import RawLabel
from data_prep.sources.record import Item, Options, Record, Reject, Source, checked_text, get, kept
from data_prep.tasks.prompts import MARKER, neutralise

TASKS = {
    "t2i": ("evalmuse", "oneigbench", "r2ibench", "wise", "realunify_ueg"),
    "edit": ("emu-edit", "dreambench", "new_synthetic_edit", "text_heavy_edit", "risebench", "hq-edit"),
    "interleaved": ("isgbench", "chameleon", "interleavedeval", "mmmg"),
    "reasoning": ("mindcube", "blink", "muirbench", "realunify", "visulogic", "vstar"),
}
"""Task -> the sets that its prompts are from."""

_TASK_OF = {source: task for task, sources in TASKS.items() for source in sources}
_PLACE = re.compile(r"<image_(\d{1,4})>")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with its task as `category` in its meta."""
    if "prompt_text" in record or "response_a_text" in record:
        get(record, "prompt_text")
        request, first, second = (_of_columns(record, name) for name in ("prompt", "response_a", "response_b"))
    elif "prompt_content" in record:
        request = of_parts(get(record, "prompt_content"), "'prompt_content'")
        first, second = (
            of_parts(get(get(record, name), "response_content"), f"'{name}'") for name in ("response_a", "response_b")
        )
    else:
        remedy = "benchmark/build_from_hf.py of the release writes files with the prompts, such as edit.json."
        raise Reject("missing-field", "'prompt_text' and 'prompt_content' are missing", remedy)
    better = options.labels.read(get(record, "chosen"), "'chosen'")
    found = kept(record, "pair_id", "id", "prompt_source")
    source = found.get("prompt_source")
    meta = {"id": found.get("pair_id", found.get("id")), "category": _TASK_OF.get(str(source), source)}
    yield illustrated_pair("multimodal_rewardbench_2", request, (first, second), better, meta)


def _of_columns(record: Record, name: str) -> Illustrated:
    """The text and images of a part; the number in a place says which image it is, from 0."""
    what = f"'{name}_text'"
    images = image_list(record.get(f"{name}_images"), f"'{name}_images'")
    given = record.get(f"{name}_text") if images else get(record, f"{name}_text")
    places = _PLACE.split(checked_text(given or "", what, allow_empty=bool(images)))
    numbers = [int(number) for number in places[1::2]]
    if numbers and sorted(numbers) != list(range(len(images))):
        raise Reject("image-count", f"{what} has places for the images {numbers[:20]}, and there are {len(images)}")
    text = MARKER.join(part.replace(MARKER, neutralise(MARKER)) for part in places[::2])
    return illustrated(text, [images[n] for n in numbers] or images, what)


SOURCE = Source(
    "multimodal_rewardbench_2",
    "facebookresearch/MMRB2",
    convert,
    licence="CC BY-NC 4.0; CC BY-NC-SA 4.0 for the images",
    size="4,000 pairs in four tasks",
    label_rule="chosen: A or B",
    label=lambda record, options: RawLabel(record.get("chosen"), ("response_a_text", "response_b_text")),
)
