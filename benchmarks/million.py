"""A set of MMPR's size and shape: rows a second, memory by the number of rows, and a restart after a kill.

    python -m benchmarks.million                     # a million rows, about 12 GB of disk
    python -m benchmarks.million --rows 20000        # a look

The rows are JSON lines with the texts of MMPR's usual length and names of images, of which there are 4,096 different
small ones, so that the file has the shape of the published one and needs no download. Images go into the Parquet
files, with hashes. The conversion runs in a process of its own, once on each part of the rows; then once more, killed
when about half of its units are done and started again, and its files are compared with those of the whole run.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import COMMAND, RESULTS, Out, photo, write
from data_prep.worker import WORK

IMAGES = 4_096
"""Different images, of 112 x 112 pixels and about 4 kB each."""


def make_set(folder: Path, rows: int) -> Path:
    """The rows as JSON lines, and the images that they name."""
    (folder / "images").mkdir(parents=True)
    for n in range(min(IMAGES, rows)):
        (folder / "images" / f"{n}.jpg").write_bytes(photo((112, 112), n))
    path = folder / "mmpr.jsonl"
    steps = "The triangle has two equal sides, so its angles at the base are equal, too. " * 8
    with path.open("w", encoding="utf-8") as stream:
        for n in range(rows):
            answer = f"<image>\nWhat is the angle at A in figure {n}? Give the steps, then the answer."
            record = {"image": f"images/{n % IMAGES}.jpg", "question": answer}
            record |= {"chosen": f"{steps}Final answer: {n % 90}", "rejected": f"{steps}Final answer: {n % 90 + 1}"}
            stream.write(json.dumps(record) + "\n")
    return path


def command(path: Path, out: Path, workers: int, limit: int) -> list[str]:
    """The conversion as a user types it."""
    words = [COMMAND, "prepare", "mmpr", "--input", path, "--output", out, "--workers", workers, "--limit", limit]
    return [str(word) for word in words]


def run_once(words: list[str], log: Path) -> dict[str, float]:
    """Run a conversion; its seconds and the largest memory of its process and of each of its workers."""
    started, peak = time.perf_counter(), 0.0
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, *(_resident(pid) for pid in (process.pid, *_children(process.pid))))
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"the conversion failed: {log.read_text(errors='replace')[-2000:]}")
    return {"seconds": round(time.perf_counter() - started, 1), "peak_mb": round(peak, 1)}


def _resident(pid: int) -> float:
    """The largest memory that a process has had, in MB; 0 for one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_half_way(words: list[str], out: Path, units: int, log: Path) -> int:
    """Start a conversion and kill it, with its workers, once half of its units have a note; returns the notes."""
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None and len(notes(out)) < max(1, units // 2):
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return len(notes(out))


def notes(out: Path) -> list[Path]:
    """The notes of the units that are done."""
    return list((out / WORK).glob("*.json"))


def digest(out: Path) -> str:
    """A hash over the names and bytes of all files of a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(out)).encode())
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def measure(folder: Path, rows: int, workers: int) -> dict[str, Any]:
    """All of it in a folder.

    Raises:
        RuntimeError: a conversion failed, or the restarted one has other bytes.
    """
    path, log = make_set(folder, rows), folder / "log"
    parts: dict[str, dict[str, float]] = {}
    for part in (rows // 4, rows // 2, rows):
        whole = folder / f"out_{part}"
        parts[str(part)] = run_once(command(path, whole, workers, part), log)
        parts[str(part)]["rows_per_s"] = round(part / parts[str(part)]["seconds"])
        if part < rows:
            shutil.rmtree(whole)
    units = len(list(whole.glob("*.parquet")))
    again = folder / "again"
    done = kill_half_way(command(path, again, workers, rows), again, units, log)
    if done >= units:
        raise RuntimeError("the conversion had ended before it could be killed: take more rows")
    resumed = run_once(command(path, again, workers, rows), log)
    if digest(whole) != digest(again):
        raise RuntimeError("the restarted conversion has other bytes")
    restart = {"units": units, "units_done_when_killed": done, "seconds_after_restart": resumed["seconds"]}
    return {"rows": rows, "workers": workers, "by_rows": parts, "restart": restart}


def main(
    rows: Annotated[int, typer.Option(min=10_000, help="Rows of the set.")] = 1_000_000,
    workers: Annotated[int, typer.Option(help="Processes of the conversion.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Where files are written. Default: the temporary folder.")] = None,
    out: Out = RESULTS / "million.json",
) -> None:
    """Make the set, convert it, and write the result."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write(out, measure(Path(scratch) / "set", rows, workers))


if __name__ == "__main__":
    typer.run(main)
