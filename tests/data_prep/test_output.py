"""What an output folder already holds: used again when it is the same, made again when asked, never mixed up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep import convert as engine
from data_prep.convert import convert
from data_prep.reading.inputs import InputError, expand_inputs
from data_prep.settings import Settings
from data_prep.writer import FORMAT_VERSION
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(GOOD["mm_rlhf"](n)) for n in range(4)))
    return path


@pytest.fixture
def images(tmp_path: Path) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(make_image(n))
    return str(folder)


def made(source: Path, output: Path, root: str, **options: Any) -> tuple[dict[str, Any], bool]:
    """The manifest, and whether it was there already."""
    told: list[str] = []
    settings = Settings("mm_rlhf", image_roots=(root,))
    manifest = convert([str(source)], output, settings, tell=told.append, **options)
    return manifest, any("made already" in text for text in told)


def test_overwrite_makes_it_again_whatever_is_there(source: Path, images: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert made(source, output, str(tmp_path / "nowhere"))[0]["rejected"] == {"image-missing": 4}
    assert made(source, output, images) == ({**made(source, output, images)[0]}, True)
    manifest, reused = made(source, output, images, overwrite=True)
    assert manifest["records"]["used"] == 4
    assert not reused


def test_input_that_changed_since_is_refused_until_told_otherwise(source: Path, images: str, tmp_path: Path) -> None:
    made(source, tmp_path / "out", images)
    text = source.read_text()
    source.write_text(text.replace("dog", "cow"))  # of the same length
    os.utime(source, (time.time() + 5, time.time() + 5))
    with pytest.raises(InputError, match=r"in\.jsonl has changed since .*--overwrite"):
        made(source, tmp_path / "out", images)
    assert not made(source, tmp_path / "out", images, overwrite=True)[1]


def test_what_an_older_version_began_is_not_finished(
    tmp_path: Path, source: Path, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(source, tmp_path / "out", images)
    monkeypatch.setattr(engine, "FORMAT_VERSION", FORMAT_VERSION + 1)
    with pytest.raises(InputError, match="another version"):
        made(source, tmp_path / "out", images)
    assert not made(source, tmp_path / "out", images, overwrite=True)[1]


def test_a_source_of_ones_own_that_changed_is_another_setting(tmp_path: Path, source: Path) -> None:
    own = tmp_path / "mine.py"
    code = (
        "from data_prep.tasks.pairwise import PreferencePair\n\n\ndef pairs(record, options):\n"
        "    yield PreferencePair('mine', (), record['question'], ('a', 'b'), 0)\n"
    )
    own.write_text(code)
    settings = Settings(f"{own}:pairs")
    first = convert([str(source)], tmp_path / "out", settings)
    assert len(first["source_xxh3_128"]) == 32
    own.write_text(code.replace("0)", "1)"))
    with pytest.raises(InputError, match="other settings"):
        convert([str(source)], tmp_path / "out", settings)


def test_near_is_a_setting_of_an_exclusion(source: Path, images: str, tmp_path: Path) -> None:
    made(source, tmp_path / "bench", images)
    bench = [str(tmp_path / "bench" / "*.parquet")]  # patterns are taken here, too
    assert made(source, tmp_path / "out", images, exclude=bench)[0]["near"] is True
    with pytest.raises(InputError, match="other settings"):
        made(source, tmp_path / "out", images, exclude=bench, perceptual=False)


@pytest.mark.parametrize("name", ["README.md", "train-00007.parquet", "rejected.jsonl", "card/mine.png"])
def test_files_of_others_are_not_overwritten(name: str, source: Path, images: str, tmp_path: Path) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match="no conversion made it"):
        made(source, tmp_path / "out", images)
    assert mine.read_text() == "mine"


def test_an_output_inside_of_the_input_is_not_read(source: Path, images: str, tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "hidden.jsonl").write_text("{}")
    settings = Settings("mm_rlhf", image_roots=(images,))
    first = convert([str(tmp_path)], tmp_path / "out", settings)
    assert convert([str(tmp_path)], tmp_path / "out", settings) == first
    assert first["records"]["in"] == 4
    assert expand_inputs([str(tmp_path)], output=tmp_path / "out") == [str(source)]


@pytest.mark.parametrize(("text", "message"), [("{cut", "not JSON"), ("[]", "other settings")])
def test_a_broken_manifest_is_named_and_can_be_overwritten(
    text: str, message: str, source: Path, images: str, tmp_path: Path
) -> None:
    made(source, tmp_path / "out", images)
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        made(source, tmp_path / "out", images)
    assert not made(source, tmp_path / "out", images, overwrite=True)[1]


def test_a_kill_while_the_old_result_is_removed_can_be_mended(
    source: Path, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, ignore_errors: bool = False) -> None:
        raise KeyboardInterrupt

    first = made(source, tmp_path / "out", images)[0]
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.convert.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            made(source, tmp_path / "out", images, overwrite=True)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError, match="--overwrite"):
        made(source, tmp_path / "out", images)
    assert made(source, tmp_path / "out", images, overwrite=True)[0] == first
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize("code", ["def pairs(:", "import nowhere_to_be_found", "1 / 0"])
def test_a_source_of_ones_own_that_cannot_be_imported_is_named(code: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ValueError, match=r"mine\.py: cannot be imported \("):
        convert([str(source)], tmp_path / "out", Settings(f"{tmp_path / 'mine.py'}:pairs"))


SLOW = """
import sys, time
from data_prep import pool
from data_prep.convert import convert
from data_prep.settings import Settings

if __name__ == "__main__":
    convert([sys.argv[1]], sys.argv[2], Settings("mm_rlhf", unit_rows=1, image_roots=(sys.argv[3],)), workers=2,
            progress=lambda done, total: (print(done, flush=True), time.sleep(60 if done else 0)))
"""


def test_the_workers_of_a_killed_conversion_end(source: Path, images: str, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), str(source), str(tmp_path / "out"), images]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line.strip() == "0":
            pass
        children = _children(process.pid)
        assert children
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(100):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        time.sleep(0.1)
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
