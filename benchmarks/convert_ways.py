"""The ways of `benchmarks.convert`, each to be run in a process of its own, and the set that they convert.

    python -m benchmarks.convert_ways WAY --source SET --output PLACE --cores 1

The last line on stdout is ``RESULT`` and a JSON object: rows, seconds by the clock and of the processor, peak memory.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image

from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.writer import file_checksum

OURS = ("ours_plain", "ours_hashes", "ours_hashes_length")
LIMITS = ("copy", "copy_same_options", "copy_same_options_hashes", "tokens")
WAYS = ("stock", "undecoded", *LIMITS, *OURS)
AS_IS = "ours_as_is"
"""Ours without hashes and with the order of the source, not a balanced one."""
NAMED = "ours_named"
"""Ours with hashes, of a set that ships the names of its images only."""


def make_source(path: Path, rows: int) -> None:
    """A file in the form of RLAIF-V with `rows` different images (64 drawn ones, each copy with its own comment)."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(64):
        noise = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        stream = io.BytesIO()
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=75)
        drawn.append(stream.getvalue())
    schema = pa.schema(
        [
            ("idx", pa.int64()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *((name, pa.string()) for name in ("question", "chosen", "rejected")),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 100):
            batch = []
            for i in range(start, min(start + 100, rows)):
                note = f"row {i}".encode()
                data = drawn[i % 64]
                # A comment segment behind the start marker: other bytes, the same image.
                data = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
                texts = (
                    f"What does image {i} show?",
                    f"It shows a quiet street {i}. " * 20,
                    f"It shows a beach {i}. " * 20,
                )
                image = {"bytes": data, "path": f"{i}.jpg"}
                batch.append(dict(zip(schema.names, (i, image, *texts), strict=True)))
            writer.write_table(pa.Table.from_pylist(batch, schema), row_group_size=100)


def make_named(folder: Path, rows: int) -> Path:
    """A set of `rows` records that name their images, 64 different ones of 4 megapixels, as JSON Lines and files."""
    rng = np.random.default_rng(0)
    for i in range(64):
        noise = Image.fromarray(rng.integers(0, 256, (384, 512, 3), dtype=np.uint8))
        noise.resize((2304, 1728), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", "JPEG", quality=75)
    path = folder / "named.jsonl"
    with path.open("w") as stream:
        for i in range(rows):
            record = {"question": f"What does image {i} show?", "chosen": "A street.", "rejected": "A beach."}
            stream.write(json.dumps(record | {"image": f"{i % 64}.jpg"}) + "\n")
    return path


def _with_datasets(source: str, output: str, decode: bool) -> None:
    import datasets

    datasets.disable_progress_bars()

    def to_task(row: dict[str, Any], index: int) -> dict[str, Any]:
        first, second = (row["chosen"], row["rejected"]) if index % 2 else (row["rejected"], row["chosen"])
        content = f"<image>{row['question']}\nResponse 1: {first}\nResponse 2: {second}"
        return {
            "data_source": "x",
            "prompt": [{"role": "user", "content": content}],
            "images": [row["image"]],
            "ability": "critic",
            "reward_model": {"style": "rule", "ground_truth": "1" if index % 2 else "2"},
            "extra_info": {"index": index},
        }

    with tempfile.TemporaryDirectory() as cache:
        start = _clock()
        data = datasets.load_dataset("parquet", data_files=source, cache_dir=cache, split="train")
        loaded = time.perf_counter() - start[0]
        data = data.cast_column("image", datasets.Image(decode=decode))
        made = data.map(to_task, with_indices=True, remove_columns=data.column_names)
        made.to_parquet(output)
        _report(start, len(data), of_which_load_dataset_s=loaded)


def _copy(source: str, output: str) -> None:
    start = _clock()
    rows = 0
    with (
        pq.ParquetFile(source) as parquet,
        pq.ParquetWriter(output, parquet.schema_arrow, compression="none") as writer,
    ):
        for batch in parquet.iter_batches(100, use_threads=False):
            writer.write_batch(batch)
            rows += batch.num_rows
    _report(start, rows)


def _copy_same_options(source: str, output: str, hashes: bool) -> None:
    start = _clock()
    rows = 0
    with (
        pq.ParquetFile(source) as parquet,
        pq.ParquetWriter(
            output, parquet.schema_arrow, compression="none", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, use_threads=False)
            writer.write_table(table, row_group_size=table.num_rows)
            rows += table.num_rows
            if hashes:
                for chunk in table["image"].chunks:
                    for value in chunk.to_pylist():
                        blake3(value["bytes"]).hexdigest()
    if hashes:
        file_checksum(Path(output))
    _report(start, rows)


def _tokens(source: str, output: str, model: str) -> None:
    """The prompts that ours made, through the `tokenizers` library."""
    from tokenizers import Tokenizer

    convert([source], output, Settings("rlaif_v", hashes=False))
    made = sorted(Path(output).glob("*.parquet"))
    columns = [pq.read_table(f, columns=["prompt"])["prompt"].to_pylist() for f in made]
    prompts = [row[0]["content"] for column in columns for row in column]
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    start = _clock()
    for at in range(0, len(prompts), 100):
        tokenizer.encode_batch_fast(prompts[at : at + 100])
    _report(start, len(prompts))


def _ours(source: str, output: str, way: str, workers: int, model: str, limit: int | None) -> None:
    source_name = "generic" if way == NAMED else "rlaif_v"
    settings = Settings(
        source_name,
        orders="as_is" if way == AS_IS else "balanced",
        hashes=way not in ("ours_plain", AS_IS),
        model=model if "length" in way else None,
        limit=limit,
    )
    start = _clock()
    manifest = convert([source], output, settings, workers=workers)
    _report(start, manifest["records"]["used"])


def _clock() -> tuple[float, float]:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in usages)


def _report(start: tuple[float, float], rows: int, **more: float) -> None:
    wall, cpu = (now - then for now, then in zip(_clock(), start, strict=True))
    # Not ru_maxrss: that begins with the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    values = {"rows": rows, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak, **more}
    print("RESULT " + json.dumps(values))


def main() -> None:
    """One way, in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=(*WAYS, AS_IS, NAMED))
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--model", default="")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--warm", default="", help="a small set to run on first; its result is not the last line")
    a = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.cores])
    if a.warm:
        _run(a.way, a.warm, f"{a.output}.warm", a)
    _run(a.way, a.source, a.output, a)


def _run(way: str, source: str, output: str, a: argparse.Namespace) -> None:
    if way in ("stock", "undecoded"):
        with contextlib.redirect_stderr(io.StringIO()):
            _with_datasets(source, output, way == "stock")
    elif way == "copy":
        _copy(source, output)
    elif way.startswith("copy"):
        _copy_same_options(source, output, "hashes" in way)
    elif way == "tokens":
        _tokens(source, output, a.model)
    else:
        _ours(source, output, way, a.workers, a.model, a.limit)


if __name__ == "__main__":
    main()
