"""Conversion speed, side by side on the same file: stock pattern, Image(decode=False), bare pyarrow copy, ours.

Each way runs in a process of its own, on one core's worth of work (CPU seconds are reported beside wall seconds, since
other work may share the machine), several times in turn; the best of each counts. The pictures are synthetic 640x480
JPEGs of the size of a photograph.

    python benchmarks/convert.py --rows 4000 --out benchmarks/results/convert.json
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.convert import convert
from data_prep.settings import Settings

WAYS = ("stock", "undecoded", "copy", "ours_plain", "ours_hashes", "ours_hashes_length")
SLOW_ROWS = 200
"""The stock pattern gets this many rows only; its speed does not depend on their number."""


def make_source(path: Path, rows: int) -> None:
    """A file in the form of RLAIF-V with `rows` different pictures (64 drawn ones, each copy with its own comment)."""
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
                # A comment segment behind the start marker: other bytes, the same picture.
                data = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
                texts = (
                    f"What does picture {i} show?",
                    f"It shows a quiet street {i}. " * 20,
                    f"It shows a beach {i}. " * 20,
                )
                image = {"bytes": data, "path": f"{i}.jpg"}
                batch.append(dict(zip(schema.names, (i, image, *texts), strict=True)))
            writer.write_table(pa.Table.from_pylist(batch, schema), row_group_size=100)


def _with_datasets(source: str, output: str, rows: int, decode: bool) -> None:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("parquet", data_files=source, cache_dir=cache, split="train")
        data = data.select(range(min(rows, len(data)))).cast_column("image", datasets.Image(decode=decode))

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

        start = _clock()
        made = data.map(to_task, with_indices=True, remove_columns=data.column_names)
        made.to_parquet(output)
        _report(start, len(data))


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


def _ours(source: str, output: str, way: str, workers: int, model: str) -> None:
    settings = Settings("rlaif_v", hashes="hashes" in way, model=model if "length" in way else None)
    # Start-up (imports, tokenizer, plotting) is paid once for a set of any size; a first small run takes it out.
    import matplotlib.figure  # noqa: F401

    if workers == 1:
        warm = Settings("rlaif_v", hashes=settings.hashes, model=settings.model, limit=64)
        convert([source], f"{output}.warm", warm)
    start = _clock()
    manifest = convert([source], output, settings, workers=workers)
    _report(start, manifest["records"]["used"])


def _clock() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def _report(start: tuple[float, float], rows: int) -> None:
    wall, cpu = (now - then for now, then in zip(_clock(), start, strict=True))
    # Not ru_maxrss: that begins with the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    values = {"rows": rows, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak}
    print("RESULT " + json.dumps(values))


def run_way(way: str, source: Path, folder: Path, model: str, workers: int = 1) -> dict[str, float]:
    """One way in a fresh process; rows, seconds and peak memory."""
    output = folder / f"out_{way}"
    for old in (output, folder / f"{output.name}.warm"):
        shutil.rmtree(old, ignore_errors=True)
    command = [sys.executable, __file__, "--way", way, "--source", str(source), "--out", str(output)]
    command += ["--workers", str(workers), "--model", model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result


def picture_digests(path: Path, column: str) -> list[str]:
    """SHA-256 of every picture in a Parquet file or in all files of a folder, in order."""
    found = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(100, columns=[column]):
                for value in batch.column(0).to_pylist():
                    data = (value[0] if isinstance(value, list) else value)["bytes"]
                    found.append(hashlib.sha256(data).hexdigest())
    return found


def make_model(folder: Path) -> str:
    """A Qwen2.5-VL processor with a small tokenizer, as the tests make it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data_prep"))
    from made_processors import make_processor

    make_processor("qwen2_5_vl").save_pretrained(folder / "model")
    return str(folder / "model")


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The run with the least CPU time, with its rates."""
    run = min(runs, key=lambda r: r["cpu_s"])
    wall = min(r["wall_s"] for r in runs)
    return {**run, "wall_s": wall, "rows_per_s": run["rows"] / wall, "rows_per_cpu_s": run["rows"] / run["cpu_s"]}


def main() -> None:
    """Run all ways, check the bytes, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="benchmarks/results/convert.json")
    parser.add_argument("--way")
    parser.add_argument("--source")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="")
    a = parser.parse_args()
    if a.way:
        if a.way in ("stock", "undecoded"):
            with contextlib.redirect_stderr(io.StringIO()):
                rows = SLOW_ROWS if a.way == "stock" else sys.maxsize
                _with_datasets(a.source, a.out, rows, a.way == "stock")
        elif a.way == "copy":
            _copy(a.source, a.out)
        else:
            _ours(a.source, a.out, a.way, a.workers, a.model)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "source.parquet"
        make_source(source, a.rows)
        model = make_model(folder)
        runs: dict[str, list[dict[str, float]]] = {w: [] for w in WAYS}
        for _ in range(a.repeats):
            for way in WAYS:
                runs[way].append(run_way(way, source, folder, model))
        results = {way: best(r) for way, r in runs.items()}
        wanted = picture_digests(source, "image")
        identical = {
            way: sum(x == y for x, y in zip(wanted, picture_digests(folder / f"out_{way}", "images"), strict=False))
            for way in WAYS
            if way != "copy"
        }
        two = best([run_way("ours_hashes", source, folder, model, workers=2) for _ in range(a.repeats)])
        big = folder / "big.parquet"
        make_source(big, 3 * a.rows)
        big_run = run_way("ours_hashes", big, folder, model)
        rate = {way: r["rows_per_cpu_s"] for way, r in results.items()}
        report = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"pyarrow {pa.__version__}; load average at the end {os.getloadavg()[0]:.1f}",
            "rows": a.rows,
            "picture_kb": round(source.stat().st_size / a.rows / 1024, 1),
            "ways": results,
            "identical_pictures": identical,
            "ratios_by_cpu_time": {
                f"{way} / {other}": round(rate[way] / rate[other], 2)
                for way in WAYS[3:]
                for other in ("stock", "undecoded", "copy")
            },
            "two_workers_wall": {
                "rows_per_s": two["rows_per_s"],
                "over_one": two["rows_per_s"] / results["ours_hashes"]["rows_per_s"],
            },
            "peak_mb_by_rows": {str(a.rows): results["ours_hashes"]["peak_mb"], str(3 * a.rows): big_run["peak_mb"]},
        }
        Path(a.out).write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report, indent=2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
