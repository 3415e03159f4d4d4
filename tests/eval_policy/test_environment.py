"""Making an environment by uv: with pins of nothing, which is the same work without the downloads."""

from pathlib import Path

import pytest

from recipe.critic_r1.eval_policy.environment import MARKER, prepare

NOTHING = "# nothing\n"


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "pins.txt"
    path.write_text(NOTHING)
    return path


def test_it_is_made_once(tmp_path: Path, pins: Path) -> None:
    said: list[str] = []
    first = prepare(tmp_path / "cache", pins=pins, say=said.append, probe="import sys")
    assert first.new
    assert first.python.is_file()
    assert said
    again = prepare(tmp_path / "cache", pins=pins, say=said.append, probe="raise SystemExit(1)")
    assert (again.python, again.new) == (first.python, False)

    pins.write_text("# another comment\n")
    assert not prepare(tmp_path / "cache", pins=pins, probe="raise SystemExit(1)").new


def test_one_that_is_not_whole_is_finished_by_the_next_call(tmp_path: Path, pins: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)importing lmms-eval failed .*no_such_module"):
        prepare(tmp_path / "cache", pins=pins, probe="import no_such_module")
    assert not list((tmp_path / "cache").rglob(MARKER))
    made = prepare(tmp_path / "cache", pins=pins, probe="import sys")
    assert made.new
    assert (made.python.parents[1] / MARKER).is_file()


def test_other_pins_make_another(tmp_path: Path, pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    first = prepare(tmp_path / "cache", pins=pins, probe="import sys")
    pins.write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(RuntimeError, match="installing failed"):
        prepare(tmp_path / "cache", pins=pins, probe="import sys")
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert first.python.is_file()


def test_missing_pins_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give --pins"):
        prepare(tmp_path / "cache", pins=tmp_path / "none.txt")
