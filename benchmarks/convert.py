"""Conversion speed, side by side on the same file: stock pattern, Image(decode=False), bare pyarrow copies, ours.

Each way runs in a process of its own, several times in turn: held to one core, and once more on all cores, which
ours uses by a second thread. Other work may share the machine, so ways are compared within a turn only, by the clock,
and the median of the turns counts, with the least and the most. A process first converts a small set: what it loads,
and the memory that it gets for the first time, is paid once for a set of any size. Then the clock starts, with the
source still a file, and stops when the Parquet files are written. All files lie in memory (/dev/shm) unless --folder
says otherwise: a disk that is slower than any of the ways would make them all alike. The images are synthetic 640x480
JPEGs of the size of a photograph.

The stock patterns run in one process, as their users run them; `datasets` decodes, encodes and writes there.

Two copies are the limit: one as it is usually written, and one with the writer options of our own shards. What hashes
and tokens cost by themselves is measured too: the copy with the same digests of images and checksum of the file, and
the same prompts through the `tokenizers` library, which lengths do without.

    python -m benchmarks.convert --out benchmarks/results/convert.json
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from benchmarks.convert_ways import AS_IS, LIMITS, NAMED, OURS, WAYS, make_named, make_source
from recipe.critic_r1.cli.data import LIBRARY_VARIABLES

SLOW_ROWS = 2_000
"""The stock pattern gets a file of this many rows only: enough that what it costs to load the set hardly counts."""

WARM_ROWS, SLOW_WARM_ROWS = 4_096, 256
"""Rows of the small set that a way converts first (a unit for each thread), and of that for the stock pattern."""

NAMED_ROWS = 6_144
"""The most images of 4 megapixels that are loaded by their names."""

PARTS = ("ways", "order", "two_workers", "named")

TARGETS = {"stock": 30.0, "undecoded": 3.0, "copy": 0.75}
"""How many times as fast as each other way a conversion is to be."""

TWO_WORKERS, PEAK_MB = 1.7, 700.0
"""Two workers against one on one core; most memory of a process."""


def run_way(
    way: str,
    source: Path,
    folder: Path,
    model: str,
    workers: int = 1,
    limit: int | None = None,
    cores: int = 1,
    warm: Path | None = None,
) -> dict[str, float]:
    """One way in a fresh process; rows, seconds (of its workers, too) and peak memory.

    Args:
        warm: a small set that the process converts first, without the clock.
    """
    output = folder / f"out_{way}"
    remove_output(output)
    command = [sys.executable, "-m", "benchmarks.convert_ways", way, "--source", str(source), "--output", str(output)]
    command += ["--workers", str(workers), "--cores", str(cores), "--model", model]
    command += ["--limit", str(limit)] if limit else []
    command += ["--warm", str(warm)] if warm else []
    threads = {"OMP_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "true" if cores > 1 else "false"}
    own = LIBRARY_VARIABLES if way in (*OURS, AS_IS, NAMED) else {}  # as the command `prepare` has it
    environment = {**os.environ, **threads, **own, "PYTHONPATH": os.getcwd(), "TMPDIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def remove_output(output: Path) -> None:
    """Take away what a way wrote: files in memory are memory that the next way needs."""
    for old in (output, output.with_name(f"{output.name}.warm")):
        shutil.rmtree(old, ignore_errors=True)
        if old.is_file():
            old.unlink()


def image_digests(path: Path, column: str) -> list[str]:
    """Digest of every image in a Parquet file or in all files of a folder, in order."""
    found = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(100, columns=[column]):
                for value in batch.column(0).to_pylist():
                    data = (value[0] if isinstance(value, list) else value)["bytes"]
                    found.append(blake3(data).hexdigest())
    return found


def digest_cost(source: Path) -> float:
    """Microseconds of this processor for the digest of one image that is already in its cache; best of many."""
    with pq.ParquetFile(source) as parquet:
        data = parquet.read_row_group(0, columns=["image"])["image"][0].as_py()["bytes"]
    times = []
    for _ in range(200):
        start = time.perf_counter()
        blake3(data).digest()
        times.append(time.perf_counter() - start)
    return round(1e6 * min(times), 1)


Runs = dict[str, list[dict[str, float]]]
"""What each way took in each turn."""


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most of some numbers."""
    found = sorted(values)
    return {"median": round(median(found), 2), "low": round(found[0], 2), "high": round(found[-1], 2)}


def seconds_per_row(run: dict[str, float]) -> float:
    """By the clock."""
    return run["wall_s"] / run["rows"]


def ratios(runs: Runs) -> dict[str, dict[str, float]]:
    """How many times as fast as the other ways of the same turn ours were."""
    return {
        f"{way} / {other}": spread(
            seconds_per_row(b) / seconds_per_row(a) for a, b in zip(runs[way], runs[other], strict=True)
        )
        for way in OURS
        for other in ("stock", "undecoded", *LIMITS[:3])
        if other in runs
    }


def make_model(folder: Path) -> str:
    """A Qwen2.5-VL processor with a tokenizer of 8,000 entries that learnt English."""
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "data_prep"), str(Path(__file__).parent)]
    from length import corpus
    from made_processors import make_processor

    make_processor("qwen2_5_vl", corpus()).save_pretrained(folder / "model")
    return str(folder / "model")


def make_warm(folder: Path, rows: int = WARM_ROWS) -> Path:
    """A small set for a way to convert first."""
    path = folder / f"warm_{rows}.parquet"
    if not path.exists():
        make_source(path, rows)
    return path


def measure(folder: Path, rows: int, repeats: int, minutes: float) -> dict[str, Any]:
    """All ways on one file, with the bytes checked."""
    source, slow = folder / "source.parquet", folder / "slow.parquet"
    make_source(source, rows)
    make_source(slow, SLOW_ROWS)
    warm, slow_warm = make_warm(folder), make_warm(folder, SLOW_WARM_ROWS)
    model = make_model(folder)
    held: Runs = {way: [] for way in WAYS}
    free: Runs = {way: [] for way in ("stock", "undecoded", "copy", *OURS)}
    cores = len(os.sched_getaffinity(0))
    wanted = image_digests(source, "image")
    identical: dict[str, int] = {}
    begun = time.monotonic()
    for done in range(repeats):
        # No further repeat that would not fit: one takes as long as the ones before.
        if done and (time.monotonic() - begun) * (done + 1) / done > 60 * minutes:
            break
        for way in WAYS:
            rows_of, first = (slow, slow_warm) if way == "stock" else (source, warm)
            held[way].append(run_way(way, rows_of, folder, model, warm=first))
            if way in free:
                free[way].append(run_way(way, rows_of, folder, model, cores=cores, warm=first))
            if way in ("stock", "undecoded", *OURS) and way not in identical:
                found = image_digests(folder / f"out_{way}", "images")
                identical[way] = sum(x == y for x, y in zip(wanted, found, strict=False))
            remove_output(folder / f"out_{way}")
    peaks = {
        str(part): run_way("ours_hashes_length", source, folder, model, limit=part, cores=cores, warm=warm)["peak_mb"]
        for part in (rows // 4, rows // 2, rows)
    }
    most = max(*peaks.values(), *(run["peak_mb"] for runs in (held, free) for way in OURS for run in runs[way]))
    by_cores = {"one core": held, "one process on all cores": free}
    found = {cores_of: ratios(runs) for cores_of, runs in by_cores.items()}
    met = {
        cores_of: {
            pair: ratio["median"] >= TARGETS[other]
            for pair, ratio in pairs.items()
            if (other := pair.split(" / ")[1]) in TARGETS
        }
        for cores_of, pairs in found.items()
    }
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"pyarrow {pa.__version__}; load average at the end {os.getloadavg()[0]:.1f}",
        "files_in": str(folder.parent),
        "turns": len(held["stock"]),
        "rows": rows,
        "image_kb": round(source.stat().st_size / rows / 1024, 1),
        "us_per_row": {
            cores_of: {way: spread(1e6 * seconds_per_row(run) for run in runs[way]) for way in runs}
            for cores_of, runs in by_cores.items()
        },
        "digest_us_per_image": digest_cost(source),
        "ratios": found,
        "targets": {**TARGETS, "two_workers": TWO_WORKERS, "peak_mb": PEAK_MB},
        "met": {**met, "peak_mb": most < PEAK_MB},
        "identical_images": identical,
        "peak_mb_by_rows": peaks,
    }


def order_balance(folder: Path, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Microseconds a row with the balanced order and with that of the source, without hashes, in turn, on all cores."""
    source = folder / "source.parquet"
    make_source(source, rows)
    warm = make_warm(folder)
    cores = len(os.sched_getaffinity(0))
    runs: Runs = {"ours_plain": [], AS_IS: []}
    for _ in range(repeats):
        for way in runs:
            runs[way].append(run_way(way, source, folder, "", cores=cores, warm=warm))
            remove_output(folder / f"out_{way}")
    balanced, as_is = ([seconds_per_row(run) for run in runs[way]] for way in runs)
    return {
        "balanced": spread(1e6 * s for s in balanced),
        "as_is": spread(1e6 * s for s in as_is),
        "as_is_over_balanced": spread(b / a for a, b in zip(balanced, as_is, strict=True)),
    }


def two_workers(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Two workers on two cores against one on one, in turn, with hashes; median and spread.

    On twice as many rows: the second worker takes a third of a second to start, and a unit is the least that it does.
    """
    source = folder / "source.parquet"
    make_source(source, 2 * rows)
    warm = make_warm(folder)
    model = make_model(folder)
    one, two = [], []
    for _ in range(repeats):
        for workers, found in ((1, one), (2, two)):
            found.append(run_way("ours_hashes", source, folder, model, workers=workers, cores=workers, warm=warm))
            remove_output(folder / "out_ours_hashes")
    pairs = list(zip(one, two, strict=True))
    return {
        "rows": 2 * rows,
        "over_one": spread(a["wall_s"] / b["wall_s"] for a, b in pairs),
        "cpu_s_of_both_over_cpu_s_of_one": spread(b["cpu_s"] / a["cpu_s"] for a, b in pairs),
        "peak_mb": max(run["peak_mb"] for run in (*one, *two)),
    }


def named_peaks(folder: Path) -> dict[str, float]:
    """Peak memory in MB of conversions that load large images by their names, by the number of rows."""
    source = make_named(folder, NAMED_ROWS)
    cores = len(os.sched_getaffinity(0))
    peaks = {}
    for part in (NAMED_ROWS // 2, 3 * NAMED_ROWS // 4, NAMED_ROWS):  # two units at least, so that both threads work
        peaks[str(part)] = run_way(NAMED, source, folder, "", limit=part, cores=cores)["peak_mb"]
        remove_output(folder / f"out_{NAMED}")
    return peaks


def main() -> None:
    """Run all ways, check the bytes, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=36_864)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--out", default="benchmarks/results/convert.json")
    parser.add_argument("--folder", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--only", choices=PARTS, help="measure this part again")
    a = parser.parse_args()
    if a.only not in (None, "ways") and not Path(a.out).is_file():
        parser.error(f"{a.out} is not there to add to: measure everything first, without --only")
    folder = Path(tempfile.mkdtemp(dir=a.folder))
    report = json.loads(Path(a.out).read_text()) if a.only and Path(a.out).is_file() else {}
    try:
        if a.only in (None, "ways"):
            found = measure(folder, a.rows, a.repeats, a.minutes)
            report |= {**found, "met": report.get("met", {}) | found["met"]}
        if a.only in (None, "order"):
            report["us_per_row_by_order"] = order_balance(folder, a.rows, a.repeats)
        if a.only in (None, "two_workers"):
            found = two_workers(folder, a.rows, a.repeats)
            report["two_workers"] = found
            report["met"]["two_workers"] = found["over_one"]["median"] >= TWO_WORKERS
        if a.only in (None, "named"):
            report["peak_mb_by_rows_named"] = found = named_peaks(folder)
            report["met"]["peak_mb_named"] = max(found.values()) < PEAK_MB
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Path(a.out).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
