"""The data set's card (README.md with the fields that the Hub reads) and its two images."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from data_prep.files import replacing, write_text
from data_prep.tasks.pairwise import EMBEDDED_IMAGES, LABELS, row_schema

CARD_FILE = "README.md"

CARD = """---
{header}---

# {title} as critic tasks

Each row asks a vision-language model to judge, with an answer that can be checked. Written by `critic-r1 prepare`.

| | |
|---|---|
| Source | {title} |
| Licence of the source | {licence} |
| Label | {label} |
| Records read, used, rejected | {records[in]}, {records[used]}, {records[rejected]} |
| Prompt template | {template} |
| Order of the responses | {orders} |

## Rows by label

| split and source | rows | {label_names} |
|---|---|{rule}
{label_rows}

![Label balance](card/labels.png)

{lengths}
## What was left out

{rejected}

Every rejected record is in `rejected.jsonl` with its reason and what to do about it. `manifest.json` holds all
settings and a checksum of every shard.
"""


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `README.md` and the images in `card/` from a manifest."""
    names, by_label = balance(manifest["labels"])
    rows = [f"| {key} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |" for key, counts in by_label.items()]
    rejected = manifest["rejected"]
    lines = [f"- {reason}: {count}" for reason, count in rejected.items()]
    lines += [f"- pairs of used records, {reason}: {count}" for reason, count in manifest["dropped_pairs"].items()]
    left_out = "\n".join(lines) or "Nothing."
    has_lengths = bool(manifest["prompt_lengths"]["histogram"])
    figures = folder / "card"
    figures.mkdir(exist_ok=True)
    _bars(figures / "labels.png", by_label, names)
    if has_lengths:
        _histogram(figures / "lengths.png", manifest["prompt_lengths"])
    text = CARD.format(
        title=manifest["source"]["title"],
        licence=manifest["source"]["licence"],
        label=manifest["source"]["label"],
        records=manifest["records"],
        template=manifest["settings"]["template"],
        orders=manifest["settings"]["orders"],
        header=yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True),
        label_names=" | ".join(names),
        rule="---|" * len(names),
        label_rows="\n".join(rows),
        lengths="## Prompt lengths\n\n![Prompt lengths](card/lengths.png)\n" if has_lengths else "",
        rejected=left_out,
    )
    write_text(folder / CARD_FILE, text)


def balance(labels: dict[str, dict[str, int]]) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the labels, and rows by label for each split and source.

    Score and N-way tasks have numbers for labels, which mean something else than those of a pair; they count as
    `other`.
    """
    found = {}
    for key, counts in labels.items():
        pairwise = " critic/" in key
        own = [counts.get(name, 0) if pairwise else 0 for name in LABELS]
        found[key] = [*own, sum(counts.values()) - sum(own)]
    names = [*LABELS, "other"]
    used = [i for i in range(len(names)) if any(counts[i] for counts in found.values())]
    return [names[i] for i in used], {key: [counts[i] for i in used] for key, counts in found.items()}


def _header(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the Hub reads. The features must name every column: `datasets` refuses files that have others."""
    rows = sum(manifest["rows"].values())
    licence = manifest["source"]["licence"]
    known = LICENCES.get(licence)
    return {
        "pretty_name": f"{manifest['source']['title']} as critic tasks",
        **({"license": known} if known else {"license": "other", "license_name": licence}),
        "task_categories": ["visual-question-answering"],
        "tags": ["preference", "reward-model"],
        "size_categories": [next((name for most, name in SIZES if rows < most), "n>1B")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": HUB_SPLITS.get(s, s), "path": f"{s}-*.parquet"} for s in manifest["rows"]],
            }
        ],
        "dataset_info": {"features": features(row_schema(embedded=manifest["settings"]["images"] == "embed"))},
    }


LICENCES = {"CC BY 4.0": "cc-by-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0"}
"""Licence of a source, in our words -> the Hub's identifier."""

SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"),
)
"""Rows below a number -> the Hub's name of the size."""

HUB_SPLITS = {"val": "validation"}
"""Our name of a split -> the Hub's, where they differ."""


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """A schema in the form in which a card lists features; the image column as images."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == EMBEDDED_IMAGES:
        return {"sequence": "image"}
    if pa.types.is_struct(kind):
        return {"struct": features(kind)}
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner["struct"]} if "struct" in inner else {"sequence": inner["dtype"]}
    return {"dtype": str(kind)}


def _axes(left: float) -> Any:
    """The axes of an image; `left` is the share of its width for their labels."""
    # The object interface: no pyplot, so no display and no global state in a library.
    from matplotlib.figure import Figure

    # Margins, not a layout: finding one takes longer than all the rest of the card.
    return Figure(figsize=(7, 3), dpi=100).add_axes((left, 0.18, 0.97 - left, 0.77))


def _bars(path: Path, counts: dict[str, list[int]], names: list[str]) -> None:
    axes = _axes(0.36)
    left = [0] * len(counts)
    for place, name in enumerate(names):
        values = [c[place] for c in counts.values()]
        axes.barh(list(counts), values, left=left, label=name)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_xlabel("rows")
    if counts:
        axes.legend(title="label")
    with replacing(path) as temporary:
        axes.figure.savefig(temporary, format="png", metadata={"Software": None})


def _histogram(path: Path, lengths: dict[str, Any]) -> None:
    axes = _axes(0.12)
    bucket = lengths["bucket"]
    starts = [int(k) for k in lengths["histogram"]]
    axes.bar(starts, list(lengths["histogram"].values()), width=bucket, align="edge", edgecolor="white")
    axes.set_xlabel(f"{lengths['unit']} of the prompt (longest: {lengths['longest']:,})")
    axes.set_ylabel("rows")
    with replacing(path) as temporary:
        axes.figure.savefig(temporary, format="png", metadata={"Software": None})
