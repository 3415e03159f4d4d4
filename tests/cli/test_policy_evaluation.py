"""`eval-policy` from end to end, with a stand-in for the tool that writes what the tool writes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from recipe.critic_r1.cli import policy_evaluation
from recipe.critic_r1.eval_policy.command import Served, ask_once
from recipe.critic_r1.eval_policy.environment import Environment
from recipe.critic_r1.eval_policy.suites import Benchmark
from tests.judging.fake_server import FakeServer
from tests.judging.test_finality import refuses

APP = typer.Typer()
policy_evaluation.register(APP)

SUITE = """
about: three of one kind
groups:
  general:
    - {task: one, metric: acc}
    - {task: two, metric: acc}
    - {task: judged, metric: acc, judge: true}
"""


class Tool:
    """Stands for lmms-eval: notes its commands, and writes results except for the tasks that are told to fail."""

    def __init__(self) -> None:
        self.commands: list[Sequence[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.fails: set[str] = set()
        self.asked = 0
        """How often the server was asked whether it answers."""
        self.scores: list[object] = [1.0, 0.0]

    def ask_once(self, served: Served) -> list[str]:
        self.asked += 1
        return ["max_tokens", "temperature"]

    def __call__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        self.commands.append(command)
        self.environments.append(environment)
        task = command[command.index("--tasks") + 1]
        if task in self.fails:
            return 1
        output = Path(command[command.index("--output_path") + 1])
        assert not output.exists(), "results of an earlier run are in the way"
        output.mkdir(parents=True)
        (output / "0_results.json").write_text(json.dumps({"results": {task: {"acc,none": 0.5}}}))
        lines = [json.dumps({"filtered_resps": "x", "acc": score}) for score in self.scores]
        (output / f"0_samples_{task}.jsonl").write_text("\n".join(lines) + "\n")
        return 0


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    stand_in = Tool()
    monkeypatch.setattr(policy_evaluation, "run", stand_in)
    monkeypatch.setattr(policy_evaluation, "prepare", lambda cache, pins, say: Environment(Path("/env/bin/python")))
    monkeypatch.setattr(policy_evaluation, "_version", lambda python: "lmms-eval 0.0")
    monkeypatch.setattr(policy_evaluation, "ask_once", stand_in.ask_once)
    return stand_in


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(SUITE)
    return str(tmp_path / "mine.yaml")


def call(suite: str, out: Path, *more: str, url: str = "http://127.0.0.1:9/v1") -> Result:
    return CliRunner().invoke(APP, [suite, "--model", "m", "--base-url", url, "--out", str(out), *more])


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "eval_policy.json").read_text())
    return found


def test_a_benchmark_that_fails_costs_only_itself(tool: Tool, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tool.fails = {"one"}
    result = call(suite, out)
    assert result.exit_code == 1
    found = written(out)
    assert list(found["metrics"]) == ["policy/general/two"]
    assert found["metrics"]["policy/general/two"]["value"] == 0.5
    assert "status 1" in found["left_out"]["one"]
    assert "--judge-model" in found["left_out"]["judged"]

    tool.fails = set()
    done = len(tool.commands)
    assert call(suite, out).exit_code == 0
    assert [c[c.index("--tasks") + 1] for c in tool.commands[done:]] == ["one"], "what was finished ran again"
    assert list(written(out)["metrics"]) == ["policy/general/one", "policy/general/two"]


def test_other_settings_run_anew(tool: Tool, suite: str, tmp_path: Path) -> None:
    call(suite, tmp_path / "out", "--task", "one")
    call(suite, tmp_path / "out", "--task", "one", "--max-tokens", "99")
    assert len(tool.commands) == 2
    assert "max_new_tokens=99,temperature=0" in tool.commands[1]


JUDGE = ("--judge-model", "big", "--judge-url", "http://judge/v1")


def test_with_a_judge_the_group_is_complete(tool: Tool, suite: str, tmp_path: Path) -> None:
    assert call(suite, tmp_path / "out", *JUDGE).exit_code == 0
    assert "policy/general/mean" in written(tmp_path / "out")["metrics"]
    assert tool.environments[0]["MODEL_VERSION"] == "big"


def test_a_figure_without_an_interval_asks_the_tool_for_one(
    tool: Tool, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def redraw(python: Path, benchmark: Benchmark, samples: Path, *_: object, **__: object) -> dict[str, float] | None:
        assert samples.is_file()
        asked.append(benchmark.task)
        return {"value": 0.5, "low": 0.3, "high": 0.6, "stderr": 0.1} if benchmark.task == "one" else None

    monkeypatch.setattr(policy_evaluation, "redraw", redraw)
    tool.scores = [{"of": 1}, {"of": 2}]
    for _ in range(2):
        assert call(suite, tmp_path / "out", *JUDGE).exit_code == 0
        found = written(tmp_path / "out")["metrics"]
        assert {name: figure["interval"] for name, figure in found.items()} == {
            "policy/general/one": "redrawn",
            "policy/general/two": "none",
            "policy/general/judged": "none",
            "policy/general/mean": "none",
            "policy/mean": "none",
        }
    assert asked == ["one", "two"], "a judge is not asked at every draw, and what was found is kept"


def test_the_server_is_asked_once_before_the_tool_runs(tool: Tool, suite: str, tmp_path: Path) -> None:
    """And not at all by a run that has nothing left to do."""
    for _ in range(2):
        assert call(suite, tmp_path / "out").exit_code == 0
    assert (tool.asked, len(tool.commands)) == (1, 2)
    assert {environment["CRITIC_R1_CHANGES"] for environment in tool.environments} == {'["max_tokens", "temperature"]'}


REFUSALS = [
    ("401", "check address, model name and key"),
    ("404", "check address, model name and key"),
    ("302", "which is not followed: give that address"),
    ({"status": 429, "body": {"error": {"code": "insufficient_quota"}}}, "no quota left"),
    ({"status": 400, "body": {"error": {"message": "Model Not Exist"}}}, "Model Not Exist"),
    ({"status": 400, "body": {"error": {"param": "foo", "message": "Unknown"}}}, "--request"),
]


@pytest.mark.parametrize(("reply", "remedy"), REFUSALS)
def test_a_server_that_refuses_stops_the_command_at_once(
    tool: Tool, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Any, remedy: str
) -> None:
    monkeypatch.setattr(policy_evaluation, "ask_once", ask_once)
    with FakeServer(lambda n, body: reply) as server:
        result = call(suite, tmp_path / "out", url=server.url)
        assert len(server.bodies) == 1
    assert (result.exit_code, tool.commands) == (2, [])
    assert remedy in result.output


def test_fields_that_a_model_does_not_take_are_found(
    tool: Tool, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_evaluation, "ask_once", ask_once)
    with FakeServer(refuses) as server:
        assert call(suite, tmp_path / "out", url=server.url).exit_code == 0
    assert json.loads(tool.environments[0]["CRITIC_R1_CHANGES"]) == ["max_tokens", "temperature"]


@pytest.mark.parametrize("damage", ["", "{cut", "[1]", "[" * 100_000])
@pytest.mark.parametrize("name", ["finished.json", "lmms-eval/0_samples_one.jsonl"])
def test_a_damaged_file_is_made_again(tool: Tool, suite: str, tmp_path: Path, damage: str, name: str) -> None:
    out = tmp_path / "out"
    assert call(suite, out, "--task", "one").exit_code == 0
    (out / "benchmarks" / "one" / name).write_text(damage)
    status = call(suite, out, "--task", "one").exit_code
    assert call(suite, out, "--task", "one").exit_code == 0
    assert len(tool.commands) == 2
    assert status == (0 if name == "finished.json" else 1)
    assert list(written(out)["metrics"]) == ["policy/general/one"]


def test_print_runs_nothing(tool: Tool, suite: str, tmp_path: Path) -> None:
    result = call(suite, tmp_path / "out", "--print")
    assert result.exit_code == 0
    assert "--tasks one" in result.output
    assert not tool.commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no suite 'nothing'"),
        (["rows"], "give --rows"),
        (["rows", "--rows", "/nowhere/x.parquet"], "/nowhere/x.parquet does not exist"),
        (["paper26", "--rows", "x.parquet"], "--rows needs the suite"),
        (["paper26", "--task", "nothing"], "'nothing' is not in the suite"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tool: Tool, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = call(arguments[0], tmp_path, *arguments[1:])
    assert (result.exit_code, bool(tool.commands)) == (2, False)
    assert message in result.output


def test_the_server_has_to_be_named(tool: Tool) -> None:
    result = CliRunner().invoke(APP, ["paper26"])
    assert result.exit_code == 2
    assert "--base-url" in result.output
