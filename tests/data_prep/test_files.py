"""Files that are complete or absent, and folders that one command holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import files


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"b": object()})
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a.json"):
        (tmp_path / "gone").read_text()
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("mine")
    (tmp_path / "a.json").symlink_to(tmp_path / "private")
    files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "private").read_text() == "mine"
    assert not (tmp_path / "a.json").is_symlink()


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path: Path) -> None:
    files.write_json_lines(tmp_path / "a.jsonl", [{"text": "x\udc80y"}, {"text": "ü"}])
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert "\\udc80" in lines
    assert [json.loads(line)["text"] for line in lines.splitlines()] == ["x\udc80y", "ü"]


@pytest.mark.parametrize(
    ("raw", "values", "errors"),
    [
        (b'{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}], []),
        (b'{"a": 1}\n{"a": ', [{"a": 1}], [2]),
        (b"\xff\xfe\n1\n", [1], [1]),
        (b"[" * 200_000 + b"\n1\n", [1], [1]),
        (b"", [], []),
    ],
)
def test_damaged_lines_are_told_with_their_number(
    raw: bytes, values: list[object], errors: list[int], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(raw)
    lines = list(files.json_lines(tmp_path / "a.jsonl"))
    assert [line.value for line in lines if line.error is None] == values
    assert [line.number for line in lines if line.error is not None] == errors


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    (tmp_path / "a.jsonl").write_bytes(b"9" * 1000 + b"\n1\n")
    first, second = files.json_lines(tmp_path / "a.jsonl")
    assert (first.number, second.number, second.value) == (1, 2, 1)
    assert first.error == "longer than 100 bytes"


def test_a_folder_is_held_by_one_command_until_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from data_prep.files import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1]), 'critic-r1 prepare'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(files.FolderInUseError, match=r"written by critic-r1 prepare \(process \d+\)"),
            files.folder_lock(tmp_path, "critic-r1 prepare"),
        ):
            pass
        other.kill()
        other.wait()
        with files.folder_lock(tmp_path, "critic-r1 prepare"):
            pass
