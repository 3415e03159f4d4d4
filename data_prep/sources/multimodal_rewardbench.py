"""Multimodal RewardBench (facebookresearch): about 5,000 pairs in one JSON list, for evaluation.

Safety is split into bias and toxicity, and reasoning into math and coding, by the beginning of the id.
"""

from collections.abc import Iterator

from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    get,
    kept,
    make_pair,
    question_text,
    read_images,
    text,
)


def category(name: str, identifier: str) -> str:
    """The category with its official parts: `safety/bias`, `safety/toxicity`, `reasoning/math`, `reasoning/coding`."""
    if name == "safety":
        return "safety/bias" if identifier.startswith("pairs") else "safety/toxicity"
    if name == "reasoning":
        return "reasoning/math" if identifier.startswith("math") else "reasoning/coding"
    return name


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, with its `category` in its meta."""
    meta = {}
    if (found := kept(record, "ID")).get("ID") is not None:
        meta["id"] = found["ID"]
    if "Category" in (named := kept(record, "Category")):
        meta["category"] = category(str(named["Category"]), str(meta.get("id", "")).lower())
    if record.get("Text") is None and "Text" in record:
        remedy = "This is all_data_release.json; scripts/0_download_data.py of the benchmark fills in the questions and"
        raise Reject("missing-field", "'Text' is null", remedy + " writes all_data.json. Give that file.")
    yield make_pair(
        "multimodal_rewardbench",
        read_images(record, "Image"),
        question_text(get(record, "Text"), "'Text'"),
        (text(record, "Output1"), text(record, "Output2")),
        options.labels.read(get(record, "Better"), "'Better'"),
        meta,
    )


SOURCE = Source(
    "multimodal_rewardbench",
    "facebookresearch/multimodal_rewardbench",
    convert,
    licence="CC BY-NC; the images have their own",
    size="5k pairs",
    label_rule="Better: Output1 or Output2",
    label=lambda record, options: RawLabel(record.get("Better"), ("Output1", "Output2")),
    label_base=1,
    needs_image_root=True,
)
