"""A run that ends early: what it says, what it leaves, and that the next one ends with the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.convert import convert
from data_prep.reading.inputs import InputError
from data_prep.reading.records import ItemReader
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from tests.data_prep.made_records import GOOD
from tests.data_prep.made_sets import ROWS, digest, settings, source_file

FULL = """
import resource, sys
from data_prep.convert import convert
from tests.data_prep.made_sets import settings

source, output, most, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
if __name__ == "__main__":
    convert([source], output, settings(), workers=workers)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_where_there_is_no_room_a_run_says_so_and_can_go_on(workers: int, tmp_path: Path) -> None:
    source, output, script = source_file(tmp_path), tmp_path / "out", tmp_path / "full.py"
    whole = convert([str(source)], tmp_path / "whole", settings())
    largest = max((tmp_path / "whole" / shard["file"]).stat().st_size for shard in whole["shards"])
    script.write_text(FULL)
    command = [sys.executable, str(script), str(source), str(output), str(largest - 1), str(workers)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert f"InputError: {output}: File too large; make room and run the same command again" in done.stderr
    assert not (output / "manifest.json").exists()
    assert not list(output.rglob("*.tmp"))
    convert([str(source)], output, settings())
    assert digest(output) == digest(tmp_path / "whole")


KILLED = """
import os, signal, sys
from data_prep import convert as engine, worker
from data_prep.settings import Settings
from data_prep.writer import ShardWriter

kind, after, source, output = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
count = 0
def counted(original):
    def wrapper(*args, **kwargs):
        global count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapper
if kind == "rows":
    ShardWriter.extend = counted(ShardWriter.extend)
elif kind == "shard":
    ShardWriter.close = counted(ShardWriter.close)
elif kind == "note":
    worker.write_json = counted(worker.write_json)
else:
    engine.finish = counted(engine.finish)
engine.convert([source], output, Settings("rlaif_v", unit_rows=10, val_share=0.2))
"""


@pytest.mark.parametrize(("kind", "after"), [("rows", 16), ("shard", 4), ("note", 2), ("finish", 1)])
def test_killed_and_resumed_ends_the_same(kind: str, after: int, tmp_path: Path) -> None:
    source = source_file(tmp_path, [GOOD["rlaif_v"](n % 50) for n in range(ROWS)])
    convert([str(source)], tmp_path / "whole", settings())
    command = [sys.executable, "-c", KILLED, kind, str(after), str(source), str(tmp_path / "cut")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "manifest.json").exists()
    seen: list[int] = []
    convert([str(source)], tmp_path / "cut", settings(), progress=lambda done, total: seen.append(done))
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    # The end of a unit overlaps with the next one: a kill loses the unit it is in and at most the one before.
    assert seen[0] in {"rows": (10, 20), "shard": (0, 10), "note": (0, 10), "finish": (ROWS,)}[kind]


def test_finished_folder_is_left_alone_and_another_setting_refused(tmp_path: Path) -> None:
    source = source_file(tmp_path)
    convert([str(source)], tmp_path / "out", settings())
    before = digest(tmp_path / "out")
    seen: list[int] = []
    convert([str(source)], tmp_path / "out", settings(), progress=lambda done, total: seen.append(done))
    assert seen == []
    assert digest(tmp_path / "out") == before
    with pytest.raises(InputError, match="other settings"):
        convert([str(source)], tmp_path / "out", settings(seed=1))
    convert([str(source)], tmp_path / "out", settings(seed=1), overwrite=True)
    convert([str(source)], tmp_path / "fresh", settings(seed=1))
    assert digest(tmp_path / "out") == digest(tmp_path / "fresh")


@pytest.mark.parametrize("below", ["", "sub"])
def test_an_output_that_is_no_folder_is_named(below: str, tmp_path: Path) -> None:
    source, file = source_file(tmp_path), tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"file.* cannot be the output .*choose another --output"):
        convert([str(source)], file / below, settings())
    assert file.read_text() == "mine"


def test_a_image_that_cannot_be_written_ends_the_run_and_rejects_no_record(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where the folder should be")
    read = ItemReader(Settings("rlaif_v"), load_source("rlaif_v"), image_folder=tmp_path / "images")
    with pytest.raises(InputError, match=r"cannot be written .*; repair that and run the same command again"):
        read(0, GOOD["rlaif_v"](0), ".")
