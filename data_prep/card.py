"""The data set's card (README.md with the fields that the Hub reads) and its two pictures."""

from pathlib import Path
from typing import Any

CARD = """---
pretty_name: {title} as critic tasks
task_categories:
- visual-question-answering
tags:
- preference
- reward-model
configs:
- config_name: default
  data_files:
{files}
dataset_info:
  features:
  - name: data_source
    dtype: string
  - name: prompt
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string
  - name: images
    {images}
  - name: ability
    dtype: string
---

# {title} as critic tasks

Each row asks a vision-language model to judge, with an answer that can be checked. Written by `critic-r1 prepare`.

| | |
|---|---|
| Source | {title} |
| Licence of the source | {licence} |
| Label | {label} |
| Records read, used, rejected | {records[in]}, {records[used]}, {records[rejected]} |
| Wording | {wording} |
| Order of the responses | {orders} |

## Rows by label

| split and source | {label_names} |
|---|{rule}
{label_rows}

![Label balance](card/labels.png)

{lengths}
## What was left out

{rejected}

Every rejected record stands in `rejected.jsonl` with its reason and what to do about it. `manifest.json` holds all
settings and the hash of every shard.
"""


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `README.md` and the pictures in `card/` from a manifest."""
    labels: dict[str, dict[str, int]] = manifest["labels"]
    # A score task has as many labels as there are numbers; the table shows the pairwise ones.
    names = [n for n in ("1", "2", "tie") if any(n in counts for counts in labels.values())] or ["rows"]
    rows = [
        f"| {key} | " + " | ".join(str(c.get(n, 0) if n != "rows" else sum(c.values())) for n in names) + " |"
        for key, c in labels.items()
    ]
    rejected = manifest["rejected"]
    left_out = "\n".join(f"- {reason}: {count}" for reason, count in rejected.items()) or "Nothing."
    has_lengths = bool(manifest["prompt_tokens"])
    figures = folder / "card"
    figures.mkdir(exist_ok=True)
    _bars(figures / "labels.png", {k: [c.get(n, 0) for n in names] for k, c in labels.items()}, names)
    if has_lengths:
        _histogram(figures / "lengths.png", manifest["prompt_tokens"])
    text = CARD.format(
        title=manifest["source"]["title"],
        licence=manifest["source"]["licence"],
        label=manifest["source"]["label"],
        records=manifest["records"],
        wording=manifest["settings"]["wording"],
        orders=manifest["settings"]["orders"],
        files="\n".join(f"  - split: {_hub_split(s)}\n    path: {s}-*.parquet" for s in manifest["rows"]),
        images="sequence: image" if manifest["settings"]["images"] == "embed" else "sequence: string",
        label_names=" | ".join(names),
        rule="---|" * len(names),
        label_rows="\n".join(rows),
        lengths="## Prompt lengths\n\n![Prompt lengths](card/lengths.png)\n" if has_lengths else "",
        rejected=left_out,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _hub_split(split: str) -> str:
    return {"val": "validation"}.get(split, split)


def _figure() -> Any:
    # The object interface: no pyplot, so no display and no global state in a library.
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 3), dpi=100, layout="constrained")


def _bars(path: Path, counts: dict[str, list[int]], names: list[str]) -> None:
    figure = _figure()
    axes = figure.subplots()
    left = [0] * len(counts)
    for place, name in enumerate(names):
        values = [c[place] for c in counts.values()]
        axes.barh(list(counts), values, left=left, label=name)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_xlabel("rows")
    if counts:
        axes.legend(title="label")
    figure.savefig(path, metadata={"Software": None})


def _histogram(path: Path, lengths: dict[str, Any]) -> None:
    figure = _figure()
    axes = figure.subplots()
    bucket = lengths["bucket"]
    starts = [int(k) for k in lengths["histogram"]]
    axes.bar(starts, list(lengths["histogram"].values()), width=bucket, align="edge", edgecolor="white")
    axes.set_xlabel(f"prompt tokens (longest: {lengths['longest']})")
    axes.set_ylabel("rows")
    figure.savefig(path, metadata={"Software": None})
