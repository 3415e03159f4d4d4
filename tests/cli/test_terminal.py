"""Text from strangers on the terminal of every command: no escape sequence comes through, no markup is obeyed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recipe.critic_r1.cli import app, cluster, output
from recipe.critic_r1.launch import submit
from tests.cli.test_output_folders import critic_rows
from tests.judging.fake_server import FakeServer, prefers_larger

HOSTILE = "\x1b]0;owned\x07\x1b[2J[/red][bold]evil[/x]\u202e\ud800"


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def check(result: Any, *, status: int | None = None) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert not set(result.output) & set("\x1b\x07\u202e\ud800"), ascii(result.output)
    assert "[/red][bold]evil[/x]" in "".join(result.output.split("\n")).replace(" ", "")
    assert status is None or result.exit_code == status, result.output


class Jobs:
    """A cluster whose jobs were named by others."""

    def __init__(self) -> None:
        self.job = SimpleNamespace(
            submission_id=HOSTILE, status=SimpleNamespace(value="FAILED"), start_time=0, entrypoint=HOSTILE,
            message=HOSTILE,
        )  # fmt: skip

    def list_jobs(self) -> list[Any]:
        return [self.job]

    def get_job_info(self, _: str) -> Any:
        return self.job

    def get_job_status(self, _: str) -> Any:
        return self.job.status

    def get_job_logs(self, _: str) -> str:
        return f"\x1b[31mloss\x1b[0m\r{HOSTILE}\n"

    def stop_job(self, _: str) -> bool:
        raise RuntimeError(HOSTILE)

    async def tail_job_logs(self, job_id: str) -> Any:
        yield self.get_job_logs(job_id)


@pytest.mark.parametrize(
    ("words", "status"), [(["status"], 0), (["logs", "j"], 1), (["logs", "j", "--no-follow"], 0), (["stop", "j"], 2)]
)
def test_jobs_of_others(monkeypatch: pytest.MonkeyPatch, words: list[str], status: int) -> None:
    monkeypatch.setattr(cluster, "_jobs", lambda _: Jobs())
    monkeypatch.setattr(output.console, "width", 300)
    check(run(*words), status=status)


def test_a_job_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_jobs", lambda _: Jobs())
    monkeypatch.setattr(submit, "submit", lambda *_, **__: submit.TrainingJob(HOSTILE, "python", 5, ("A",)))
    check(run("submit", "r1", "--no-follow"), status=0)


def test_a_report_of_a_strangers_run(tmp_path: Path) -> None:
    (tmp_path / "judge.json").write_text(json.dumps({"metrics": {HOSTILE: "no number"}}))
    check(run("report", tmp_path), status=2)


def test_an_export_of_a_strangers_run(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud800", "").replace("/", "∕")
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    result = run("export", tmp_path / name, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "\x1b" not in result.output


def test_rollouts_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.console, "width", 300)
    rows = [
        {"data_source": "critic/x", "response": HOSTILE, "ground_truth": HOSTILE, "score": 3, "reason": HOSTILE},
        {"data_source": "critic/x", "response": "\\boxed{1}", "ground_truth": "1", "score": 3},
        {"response": None, "ground_truth": "1"},
    ]
    lines = [json.dumps(row) for row in rows] + ["[" * 100_000, "{cut"]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    result = run("score", tmp_path / "samples.jsonl")
    check(result, status=0)
    assert "not JSON" in result.output


def test_what_a_server_and_the_data_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a refused run, and the categories in the table of a finished one."""
    monkeypatch.setattr(output.console, "width", 300)
    rows = critic_rows()
    for i, row in enumerate(rows):
        row["extra_info"]["meta"] = json.dumps({"category": f"{i // 2}{HOSTILE}"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    words = ["judge", tmp_path / "t.parquet", "--model", "m", "--out", tmp_path / "out", "--base-url"]
    refusal = {"status": 400, "body": {"error": {"message": HOSTILE, "param": "top_k"}}}
    with FakeServer(lambda n, body: refusal) as server:
        check(run(*words, server.url), status=2)
    with FakeServer(prefers_larger) as server:
        check(run(*words, server.url), status=0)
