"""Two threads of one process convert as one does."""

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import pool
from data_prep.convert import convert
from data_prep.reading.inputs import InputError
from data_prep.reading.units import Unit
from tests.data_prep.made_records import GOOD
from tests.data_prep.made_sets import ROWS, digest, settings, source_file


@pytest.mark.parametrize("images", ["embed", "reference"])
def test_a_second_thread_changes_no_byte(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each image stands in several units, so that both threads may write the same file.
    rows = [GOOD["rlaif_v"](n) | {"image": GOOD["rlaif_v"](n % 3)["image"]} for n in range(ROWS)]
    source = source_file(tmp_path, rows)
    folders = []
    for cores in (1, 2):
        monkeypatch.setattr(pool, "cores", lambda cores=cores: cores)
        output = tmp_path / str(cores) / "out"
        manifest = convert([str(source)], output, settings(images=images, unit_rows=2))
        assert manifest["records"]["used"] == ROWS
        files = {p.name: p.read_bytes() for p in output.rglob("*") if p.parent.parent.name == "images"}
        tables = [pq.read_table(output / s["file"], columns=["extra_info"]) for s in manifest["shards"]]
        folders.append((files, pa.concat_tables(tables), digest(output) if images == "embed" else {}))
    assert folders[0] == folders[1]
    assert len(folders[0][0]) == (3 if images == "reference" else 0)


@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_fault_in_either_thread_ends_the_run_and_the_next_goes_on(
    thread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_file(tmp_path)
    monkeypatch.setattr(pool, "cores", lambda: 2)
    begun = threading.Barrier(2, timeout=60)
    original = pool.Worker.__call__

    def fails(worker: pool.Worker, unit: Unit) -> int:
        if unit.number < 2:
            begun.wait()  # so that each thread has one of the first two units
            if (threading.current_thread() is threading.main_thread()) == (thread == "main"):
                raise InputError("the disk is full")
        return original(worker, unit)

    with monkeypatch.context() as patch:
        patch.setattr(pool.Worker, "__call__", fails)
        with pytest.raises(InputError, match="the disk is full"):
            convert([str(source)], tmp_path / "out", settings())
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))
    convert([str(source)], tmp_path / "out", settings())
    convert([str(source)], tmp_path / "whole", settings())
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_one(workers: int, tmp_path: Path) -> None:
    assert (
        convert([str(source_file(tmp_path))], tmp_path / "out", settings(), workers=workers)["records"]["used"] == ROWS
    )
