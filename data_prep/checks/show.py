"""A few tasks to look at, in the terminal or as an HTML page with embedded images."""

import base64
import heapq
import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.checks.rows import REQUIRED, expand, image_bytes
from data_prep.files import refuse_foreign_file, write_text
from data_prep.reading.images import BadImage, read_header
from data_prep.reading.parquet_files import check_rows, group_batches, open_parquet
from data_prep.tasks.ordering import seeded_fraction

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Tasks</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
article{border:1px solid #ccc;border-radius:8px;padding:1rem;margin:1rem 0}
img{max-width:320px;max-height:320px;image-rendering:auto;border:1px solid #ddd}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1rem}
.pair>div{background:#f6f6f6;padding:.5rem 1rem}
.pair>div.gold{background:#e4f3e4;outline:2px solid #3a3}pre{white-space:pre-wrap;font:13px/1.4 ui-monospace,monospace}
small{color:#666}</style></head><body><h1>Tasks</h1>
"""


def sample_rows(
    paths: Iterable[str | os.PathLike[str]], n: int, seed: int = 0
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """`n` rows, sampled by seed from all files, with their files; only their row groups are read.

    Raises:
        ValueError: there is no such file, or no Parquet file in the folder.
    """
    drawn = heapq.nsmallest(n, _places(paths), key=lambda p: seeded_fraction(seed, "show", p[0].name, p[1], p[2]))
    for file, group, i in sorted(drawn):
        yield file, _row(file, group, i)


def _places(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[Path, int, int]]:
    for file in expand(paths):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; name a folder that `critic-r1 prepare` wrote, or a Parquet file")
        try:
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                check_rows(metadata, group)
        except pa.ArrowException as error:
            raise ValueError(
                f"{file}: not a readable Parquet file ({error}); `critic-r1 validate` tells more"
            ) from error
        if missing := [name for name in REQUIRED if name not in metadata.schema.to_arrow_schema().names]:
            raise ValueError(f"{file}: not a file of tasks, it has no {missing[0]}; make one with `critic-r1 prepare`")
        for group in range(metadata.num_row_groups):
            yield from ((file, group, i) for i in range(metadata.row_group(group).num_rows))


def _row(file: Path, group: int, place: int) -> dict[str, Any]:
    """One row, read in small batches."""
    with open_parquet(file) as parquet:
        for batch in group_batches(parquet, file, group, None, 64):
            if place < batch.num_rows:
                found: dict[str, Any] = batch.slice(place, 1).to_pylist()[0]
                return found
            place -= batch.num_rows
    raise ValueError(f"{file}: row group {group} breaks off")


def html_sheet(
    rows: Iterable[tuple[Path, dict[str, Any]]], path: str | os.PathLike[str], *, image_roots: Sequence[str] = ()
) -> None:
    """Write one self-contained page with all text escaped.

    Args:
        image_roots: folders of named images, in addition to the folder of the row's file.

    Raises:
        FileExistsError: the path exists and is not such a page.
    """
    refuse_foreign_file(Path(path), "<title>Tasks</title>", "a page of tasks")
    parts = [_PAGE]
    for file, row in rows:
        info, truth = _mapping(row["extra_info"]), ground_truth(row)
        parts.append(f"<article><small>{_escaped(file.name)} · {_escaped(row['data_source'])} · ")
        tags = _images(row, [str(file.parent), *image_roots])
        of_first, of_second = _counts(info.get("response_images"))
        start = max(0, len(tags) - of_first - of_second)
        own = tags[start : start + of_first], tags[start + of_first :]
        parts.append(f"{_escaped(info.get('pair_id'))}</small><p>{' '.join(tags[:start])}</p>")
        parts.append(f"<p><b>{_escaped(info.get('question'))}</b></p>")
        pair = [r for r in (info.get("response_1"), info.get("response_2")) if r is not None]
        if cells := pair or info.get("responses"):
            parts.append('<div class="pair">')
            for name, text in enumerate(cells, 1):
                best = row["ability"] != "critic_score" and truth in (str(name), "tie")
                gold = ' class="gold"' if best else ""
                shown = " ".join(own[name - 1]) if name <= 2 else ""
                parts.append(f"<div{gold}><small>Response {name}</small><pre>{_escaped(text)}</pre>{shown}</div>")
            parts.append("</div>")
        parts.append(f"<p>Label: <b>{_escaped(truth)}</b></p><details><summary>Prompt</summary>")
        parts.append(f"<pre>{_escaped(prompt_text(row))}</pre></details></article>")
    parts.append("</body></html>\n")
    write_text(Path(path), "".join(parts))


def _escaped(text: Any) -> str:
    return "" if text is None else html.escape(str(text))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def ground_truth(row: Mapping[str, Any]) -> str:
    """The label of a row of any structure."""
    return str(_mapping(row["reward_model"]).get("ground_truth"))


def prompt_text(row: Mapping[str, Any]) -> str:
    """The text of all turns of a row of any structure."""
    turns = row["prompt"] if isinstance(row["prompt"], list) else [{"content": row["prompt"]}]
    return "\n".join(str(_mapping(turn).get("content")) for turn in turns)


def _counts(value: Any) -> tuple[int, int]:
    """How many of a row's images belong to each response."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n >= 0 for n in value):
        return value[0], value[1]
    return 0, 0


def _images(row: dict[str, Any], roots: Sequence[str]) -> list[str]:
    """A tag for each image of the row."""
    tags = []
    for image in row["images"] if isinstance(row["images"], list) else []:
        try:
            data = image_bytes(image, roots)
            kind = read_header(data).format.lower()
        except BadImage as problem:
            tags.append(f"<em>{html.escape(str(problem))}</em>")
            continue
        kind = "jpeg" if kind == "mpo" else kind
        tags.append(f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">')
    return tags
