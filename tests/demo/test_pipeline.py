"""The demo's stages: a done one is not repeated, a failed one says why and how to go on, runs are not mixed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data_prep.files import folder_lock
from data_prep.sources import easy_vqa
from recipe.critic_r1.cli import app
from recipe.critic_r1.demo.console import parse_progress, progress_line
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings, Stage, StageFailed, start_over


class ScriptedRun(DemoRun):
    """A run whose stages are given."""

    script: list[Stage]

    def stages(self) -> list[Stage]:
        return self.script


def run_in(folder: Path, script: list[Stage], settings: DemoSettings | None = None) -> tuple[ScriptedRun, Console]:
    console = Console(record=True, width=200)
    run = ScriptedRun(folder, settings or DemoSettings(), console)
    run.script = script
    return run, console


def python(name: str, code: str) -> Stage:
    return Stage(name, name.title(), [sys.executable, "-c", code])


def test_a_failed_stage_says_why_and_a_second_run_resumes_there(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    broken = "import sys; print('noise'); sys.exit('critic-r1: no room at the inn')"
    run, _ = run_in(tmp_path / "run", [python("first", count), python("second", broken)])
    with pytest.raises(StageFailed, match=r"(?s)Second failed \(exit status 1\).*no room at the inn.*demo --resume"):
        run.run()
    assert "noise" in (tmp_path / "run" / "logs" / "second.log").read_text()
    run, console = run_in(tmp_path / "run", [python("first", count), python("second", "pass")])
    run.run()
    assert (tmp_path / "count").read_text() == "x"
    assert "done before   First" in console.export_text()
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert [(stage["name"], stage["status"]) for stage in stages] == [("first", "done"), ("second", "done")]


def test_progress_reaches_the_console_and_noise_does_not(tmp_path: Path) -> None:
    code = f"print('WARNING noise'); print({progress_line(5, 10, 'loss 0.1')!r})"
    run, console = run_in(tmp_path, [python("train", code)])
    run._watch_training = lambda line: None  # type: ignore[method-assign]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "config.yaml").write_text("trainer: {total_training_steps: 3}\n")
    run.run()
    shown = console.export_text()
    assert "5/10  loss 0.1" in shown
    assert "noise" not in shown
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["trainer.total_training_steps"] == 3


def test_another_seed_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    run_in(tmp_path, [])[0].run()
    with pytest.raises(StageFailed, match=r"other settings \(seed\)"):
        run_in(tmp_path, [], DemoSettings(seed=1))[0].run()


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    settings = DemoSettings(seed=3, flip_labels=0.5, overrides=("trainer.total_training_steps=2",))
    run_in(tmp_path, [], settings)[0].run()
    assert DemoSettings.of_run(tmp_path) == settings


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        (progress_line(3, 10, "loss 0.5 · x"), (3, 10, "loss 0.5 · x")),
        (progress_line(1, 1), (1, 1, "")),
        ("::progress:: three of ten", None),
        ("::progress::", None),
        ("INFO 3/10", None),
        ("", None),
    ],
)
def test_progress_lines(line: str, parsed: tuple[int, int, str] | None) -> None:
    assert parse_progress(line) == parsed


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        (lambda out: None, ["--resume", "--flip-labels", "2"], "--flip-labels"),
        (lambda out: (out / "run.json").write_text("{}"), [], "give --resume"),
    ],
)
def test_the_command_asks_before_it_touches_a_run(
    tmp_path: Path, make: Callable[[Path], object], arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoRun, "run", lambda self: (_ for _ in ()).throw(StageFailed("stopped here")))
    make(tmp_path)
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *arguments])
    assert result.exit_code != 0
    assert said in result.output


def test_starting_over_removes_only_what_the_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(StageFailed, match="is not a run of the demo"):
        start_over(tmp_path)
    (tmp_path / "run.json").write_text('{"name": "of train"}')
    with pytest.raises(StageFailed, match="is not the record of a demo run"):
        start_over(tmp_path)
    (tmp_path / "run.json").unlink()
    run_in(tmp_path, [python("first", "pass")])[0].run()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    start_over(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "elsewhere", "precious"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_second_demo_in_the_folder_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    run_in(tmp_path, [])[0].run()
    before = (tmp_path / "run.json").read_bytes()
    with folder_lock(tmp_path, "critic-r1 demo"):
        for attempt in (run_in(tmp_path, [python("first", "pass")])[0].run, lambda: start_over(tmp_path)):
            with pytest.raises(StageFailed, match=r"is being written by critic-r1 demo \(process"):
                attempt()
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[" * 100_000,
        '{"asked": {"overrides": []}}',
        '{"asked": 1, "stages": []}',
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StageFailed, match=r"run\.json is not the record of a demo run"):
        DemoSettings.of_run(tmp_path)


def test_a_run_of_another_version_can_be_started_again_and_not_resumed(tmp_path: Path) -> None:
    run_in(tmp_path, [])[0].run()
    record = json.loads((tmp_path / "run.json").read_text())
    record["asked"]["orders"] = "both"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(StageFailed, match=r"another version of critic-r1.*\(orders\).*--fresh"):
        run_in(tmp_path, [])[0].run()
    start_over(tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_world_without_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    easy_vqa.load.cache_clear()
    easy_vqa.questions.cache_clear()
    with pytest.raises(StageFailed, match=r"need easy-vqa: install critic-r1\[easy-vqa\]"):
        DemoRun(tmp_path, DemoSettings(world="easy_vqa"), Console()).stages()
