"""Conversion speed on the same file: the stock pattern, Image(decode=False), a bare pyarrow copy, and ours.

    python -m benchmarks.convert

Each way runs in a process of its own, several turns of all ways: held to one core, and once more on all cores, of which
ours uses two. Other work may share the machine, so ways are compared within a turn only, by wall time, and the median
of the turns counts. A process first converts a small set: what it loads is paid once for a set of any size. Then the
clock starts, with the source still a file, and stops when the Parquet files are written. All files are in /dev/shm
unless --folder says otherwise: a disk that is slower than any of the ways would make them all alike. The images are
synthetic 640x480 JPEGs of the size of a photograph, each different.

The stock patterns run in one process, as their users run them; `datasets` decodes, encodes and writes there. Measured
too: two workers against one, and peak memory by the number of rows, also of a set that only names its images.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from blake3 import blake3

from benchmarks.harness import RESULTS, Out, english, photo, spread, write
from data_prep.convert import convert
from data_prep.settings import Settings
from recipe.critic_r1.cli.data import LIBRARY_VARIABLES

OURS = ("ours_plain", "ours_hashes", "ours_hashes_length")
WAYS = ("stock", "undecoded", "copy", *OURS)
NAMED = "ours_named"
"""Ours with hashes, of a set that ships the names of its images only."""

SLOW_ROWS = 2_000
"""The stock pattern gets a file of this many rows only: enough that what it costs to load the set hardly counts."""

WARM_ROWS = 4_096
"""Rows of the small set that a way converts first; the stock pattern a sixteenth of it."""

NAMED_ROWS = 6_144
"""Images of 4 megapixels that are loaded by their names."""

TARGETS = {"stock": 20.0, "undecoded": 3.0}
"""How many times as fast as another way a conversion is to be, on all cores."""

PEAK_MB = 700.0
"""Most memory of a process."""

Run = dict[str, float]


def make_source(path: Path, rows: int) -> Path:
    """A file in the form of RLAIF-V with `rows` different images (64 made ones, each copy with its own comment)."""
    if path.exists():
        return path
    made = [photo((640, 480), seed) for seed in range(64)]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("question", "chosen", "rejected")]
    schema = pa.schema([("idx", pa.int64()), ("image", image), *texts])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 100):
            batch = []
            for i in range(start, min(start + 100, rows)):
                # A comment segment after the start marker: other bytes, the same image.
                note, data = f"row {i}".encode(), made[i % 64]
                data = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
                street, beach = f"It shows a quiet street {i}. " * 20, f"It shows a beach {i}. " * 20
                row = (i, {"bytes": data, "path": f"{i}.jpg"}, f"What does image {i} show?", street, beach)
                batch.append(dict(zip(schema.names, row, strict=True)))
            writer.write_table(pa.Table.from_pylist(batch, schema), row_group_size=100)
    return path


def make_named(folder: Path, rows: int) -> Path:
    """Records that name their images, 64 different ones of 4 megapixels, as JSON lines and files."""
    for i in range(64):
        (folder / f"{i}.jpg").write_bytes(photo((2304, 1728), i))
    path, record = folder / "named.jsonl", {"question": "What?", "chosen": "A street.", "rejected": "A beach."}
    lines = (json.dumps(record | {"question": f"What is {i}?", "image": f"{i % 64}.jpg"}) for i in range(rows))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _with_datasets(source: str, output: str, decode: bool) -> int:
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

    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stderr(io.StringIO()):
        data = datasets.load_dataset("parquet", data_files=source, cache_dir=cache, split="train")
        data = data.cast_column("image", datasets.Image(decode=decode))
        data.map(to_task, with_indices=True, remove_columns=data.column_names).to_parquet(output)
        return len(data)


def _copy(source: str, output: str) -> int:
    with (
        pq.ParquetFile(source) as parquet,
        pq.ParquetWriter(output, parquet.schema_arrow, compression="none") as writer,
    ):
        for batch in parquet.iter_batches(100, use_threads=False):
            writer.write_batch(batch)
        return int(parquet.metadata.num_rows)


def one_way(way: str, source: str, output: str, model: str, workers: int, limit: int | None) -> int:
    """Convert in this process; returns the rows."""
    if way in ("stock", "undecoded"):
        return _with_datasets(source, output, way == "stock")
    if way == "copy":
        return _copy(source, output)
    settings = Settings(
        "generic" if way == NAMED else "rlaif_v",
        hashes=way != "ours_plain",
        model=model if "length" in way else None,
        limit=limit,
    )
    return int(convert([source], output, settings, workers=workers)["records"]["used"])


def timed_way(way: str, source: str, warm: str, output: str, model: str, cores: int, workers: int, limit: int) -> None:
    """One way in this process, after the warm set; the last line on stdout is the result."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if warm:
        one_way(way, warm, f"{output}.warm", model, workers, None)
    usages, start = _usage(), time.perf_counter()
    rows = one_way(way, source, output, model, workers, limit or None)
    wall, cpu = time.perf_counter() - start, _usage() - usages
    # Not ru_maxrss: that begins with the size of the process that started this one.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print("RESULT " + json.dumps({"rows": rows, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak}))


def _usage() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Folder:
    """A folder in memory, with the sources and what the ways write."""

    def __init__(self, path: Path) -> None:
        self.path, self.cores = path, len(os.sched_getaffinity(0))
        self.model = str(path / "model")
        from tests.data_prep.made_processors import make_processor

        make_processor("qwen2_5_vl", english()).save_pretrained(self.model)

    def source(self, rows: int) -> Path:
        """A source of this many rows, made once."""
        return make_source(self.path / f"source_{rows}.parquet", rows)

    def run(
        self, way: str, source: Path, *, cores: int = 1, workers: int = 1, limit: int = 0, warm: Path | None = None
    ) -> tuple[Run, list[str]]:
        """One way in a fresh process: what it took, and the hashes of the images that it wrote."""
        output = self.path / f"out_{way}"
        arguments = (way, str(source), str(warm or ""), str(output), self.model, cores, workers, limit)
        code = f"from benchmarks.convert import timed_way; timed_way(*{arguments!r})"
        threads = {"OMP_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "true" if cores > 1 else "false"}
        own = LIBRARY_VARIABLES if way.startswith("ours") else {}  # as the command `prepare` has it
        environment = {**os.environ, **threads, **own, "TMPDIR": str(self.path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
        hashes = image_digests(output, "image" if way == "copy" else "images")
        for old in (output, Path(f"{output}.warm")):  # files in memory are memory that the next way needs
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        return json.loads(lines[-1].removeprefix("RESULT ")), hashes


def image_digests(path: Path, column: str) -> list[str]:
    """Digest of every image in a Parquet file or in all files of a folder, in order."""
    found = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(100, columns=[column]):
                for value in batch.column(0).to_pylist():
                    found.append(blake3((value[0] if isinstance(value, list) else value)["bytes"]).hexdigest())
    return found


def rounded(values: list[float]) -> dict[str, float]:
    """Median, least and largest, to two places."""
    return {name: round(value, 2) for name, value in spread(values).items()}


def measure_ways(folder: Folder, rows: int, turns: int) -> dict[str, Any]:
    """All ways on one file, with the bytes checked."""
    source, warm = folder.source(rows), folder.source(WARM_ROWS)
    slow, slow_warm = folder.source(SLOW_ROWS), folder.source(WARM_ROWS // 16)
    wanted, identical, peak = image_digests(source, "image"), dict[str, int](), 0.0
    per_row: dict[str, dict[str, list[float]]] = {}
    for _ in range(turns):
        for name, cores in (("one core", 1), ("one process on all cores", folder.cores)):
            for way in WAYS:
                of, first = (slow, slow_warm) if way == "stock" else (source, warm)
                run, hashes = folder.run(way, of, cores=cores, warm=first)
                per_row.setdefault(name, {}).setdefault(way, []).append(1e6 * run["wall_s"] / run["rows"])
                identical[way] = sum(x == y for x, y in zip(wanted, hashes, strict=False))
                peak = max(peak, run["peak_mb"] if way in OURS else 0.0)
    ratios = {
        name: {
            f"{way} / {other}": rounded([b / a for a, b in zip(found[way], found[other], strict=True)])
            for way in OURS
            for other in ("stock", "undecoded", "copy")
        }
        for name, found in per_row.items()
    }
    met = {
        pair: ratio["median"] >= TARGETS[other]
        for pair, ratio in ratios["one process on all cores"].items()
        if (other := pair.split(" / ")[1]) in TARGETS
    }
    return {
        "turns": turns,
        "rows": rows,
        "image_kb": round(source.stat().st_size / rows / 1024, 1),
        "us_per_row": {name: {way: rounded(found[way]) for way in found} for name, found in per_row.items()},
        "ratios": ratios,
        "targets": {**TARGETS, "peak_mb": PEAK_MB},
        "met": {**met, "peak_mb": peak < PEAK_MB},
        "identical_images": identical,
    }


def measure_workers(folder: Folder, rows: int, turns: int) -> dict[str, Any]:
    """Two workers on two cores against one on one, in turn, with hashes, on twice as many rows."""
    source, warm = folder.source(2 * rows), folder.source(WARM_ROWS)
    pairs = [
        [folder.run("ours_hashes", source, workers=n, cores=n, warm=warm)[0] for n in (1, 2)] for _ in range(turns)
    ]
    return {
        "rows": 2 * rows,
        "over_one": rounded([one["wall_s"] / two["wall_s"] for one, two in pairs]),
        "cpu_s_of_both_over_cpu_s_of_one": rounded([two["cpu_s"] / one["cpu_s"] for one, two in pairs]),
        "peak_mb": max(run["peak_mb"] for pair in pairs for run in pair),
    }


def measure_peaks(folder: Folder, way: str, source: Path, rows: int) -> dict[str, float]:
    """Peak memory in MB by the number of rows; two units at least, so that both threads work."""
    parts = (rows // 2, 3 * rows // 4, rows)
    return {str(part): folder.run(way, source, limit=part, cores=folder.cores)[0]["peak_mb"] for part in parts}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the source.")] = 36_864,
    turns: Annotated[int, typer.Option(min=1, help="Turns of all ways.")] = 3,
    folder: Annotated[Path, typer.Option(help="Where files lie.")] = Path("/dev/shm"),
    out: Out = RESULTS / "convert.json",
) -> None:
    """Run all ways, check the bytes, and write the result."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        here = Folder(Path(scratch))
        found = measure_ways(here, rows, turns)
        found["peak_mb_by_rows"] = measure_peaks(here, OURS[-1], here.source(rows), rows)
        found["two_workers"] = measure_workers(here, rows, turns)
        named = make_named(here.path, NAMED_ROWS)
        found["peak_mb_by_rows_named"] = measure_peaks(here, NAMED, named, NAMED_ROWS)
    write(out, {"files_in": str(folder), **found})


if __name__ == "__main__":
    typer.run(main)
