"""Several processes convert as one does, and one command holds a folder at a time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.convert import convert
from data_prep.files import folder_lock
from data_prep.reading.inputs import InputError
from data_prep.worker import Worker
from tests.data_prep.made_records import GOOD
from tests.data_prep.made_sets import ROWS, digest, settings, source_file


@pytest.mark.parametrize("images", ["embed", "reference"])
def test_a_second_process_changes_no_byte(images: str, tmp_path: Path) -> None:
    # Each image is in several units, so that both processes may write the same file.
    rows = [GOOD["rlaif_v"](n) | {"image": GOOD["rlaif_v"](n % 3)["image"]} for n in range(ROWS)]
    source, output = source_file(tmp_path, rows), tmp_path / "out"
    found = []
    for workers in (1, 2):
        manifest = convert(
            [str(source)], output, settings(images=images, unit_rows=10), workers=workers, overwrite=True
        )
        assert manifest["records"]["used"] == ROWS
        files = {p.name: p.read_bytes() for p in output.rglob("*") if p.parent.parent.name == "images"}
        found.append((files, digest(output)))
    assert found[0] == found[1]
    assert len(found[0][0]) == (3 if images == "reference" else 0)


def test_a_fault_ends_the_run_and_the_next_one_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, original = source_file(tmp_path), Worker.__call__

    def fails(worker: Worker, unit: object) -> int:
        if getattr(unit, "number", 0) == 1:
            raise InputError("the disk is full")
        return original(worker, unit)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "__call__", fails)
        with pytest.raises(InputError, match="the disk is full"):
            convert([str(source)], tmp_path / "out", settings())
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))
    convert([str(source)], tmp_path / "out", settings())
    convert([str(source)], tmp_path / "whole", settings())
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_one(workers: int, tmp_path: Path) -> None:
    manifest = convert([str(source_file(tmp_path))], tmp_path / "out", settings(), workers=workers)
    assert manifest["records"]["used"] == ROWS


HOLDS = """
import sys, time
from pathlib import Path
from data_prep.files import folder_lock
with folder_lock(Path(sys.argv[1]), "critic-r1 prepare"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_command_is_refused_before_it_touches_anything(begun: bool, tmp_path: Path) -> None:
    source, output = source_file(tmp_path), tmp_path / "out"
    if begun:
        (output / ".work").mkdir(parents=True)
        (output / ".work" / "identity.json").write_text("{}")
        (output / ".train-00000.parquet.1-1.tmp").write_bytes(b"what the first is writing")
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(output)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        before = sorted((str(p), p.stat().st_mtime_ns) for p in output.rglob("*"))
        for overwrite in (False, True):
            with pytest.raises(InputError, match=r"is being written by critic-r1 prepare \(process \d+\)"):
                convert([str(source)], output, settings(), overwrite=overwrite)
        assert sorted((str(p), p.stat().st_mtime_ns) for p in output.rglob("*")) == before
        first.kill()
    convert([str(source)], output, settings(), overwrite=begun)
    with folder_lock(output, "another command"):  # the lock ends with the conversion
        pass


@pytest.mark.parametrize("name", ["images", "card", ".work"])
def test_nothing_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    source, output, elsewhere = source_file(tmp_path), tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    output.mkdir()
    (output / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a symbolic link"):
        convert([str(source)], output, settings(images="reference"), overwrite=True)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: note.write_text("{"),
        lambda note: note.write_text("[" * 100_000),
        lambda note: note.write_text('{"rows": 2, "shards": [{"file": "../../private", "bytes": 7}]}'),
        lambda note: note.write_text(note.read_text().replace('"used"', '"other"')),
        lambda note: note.with_suffix(".npy").write_bytes(b"\x93NUMPY"),
        lambda note: note.with_suffix(".npy").unlink(),
        lambda note: note.write_text(note.read_text().replace("train-", "../out/train-")),
    ],
)
def test_a_damaged_note_is_made_again(
    damage: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = source_file(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.convert.finish", lambda *args: (_ for _ in ()).throw(InputError("stopped")))
        with pytest.raises(InputError, match="stopped"):
            convert([str(source)], output, settings())
    damage(output / ".work" / "00000.json")
    convert([str(source)], output, settings())
    convert([str(source)], tmp_path / "whole", settings())
    assert digest(output) == digest(tmp_path / "whole")
