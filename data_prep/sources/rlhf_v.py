"""openbmb/RLHF-V-Dataset: answers whose hallucinations people corrected, 5.7k pairs.

`text` is JSON inside a text: question, the corrected answer (chosen) and the original one (rejected).
"""

from collections.abc import Iterator

from data_prep.sources.record import Item, Options, Record, Reject, Source, chosen_rejected, get, parsed_json


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    inner = parsed_json(get(record, "text"), "'text'")
    if not isinstance(inner, dict):
        raise Reject("wrong-type", f"'text' holds a {type(inner).__name__}, not an object")
    merged = {**record, **inner}
    merged["id"] = record.get("idx")
    yield chosen_rejected(
        "rlhf_v", merged, "question", ("image", "image_path"), "ds_name", "origin_dataset", "origin_split"
    )


SOURCE = Source(
    "rlhf_v",
    "openbmb/RLHF-V-Dataset",
    convert,
    licence="CC BY-NC 4.0",
    size="5.7k pairs",
    label_rule="chosen (corrected by people)",
)
