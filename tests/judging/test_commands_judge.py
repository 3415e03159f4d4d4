"""The two commands from end to end against the fake server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_server import FakeServer, answer
from typer.testing import CliRunner

from data_prep.prompts import get_wording
from data_prep.task import Picture, PolicyTask, PreferencePair, PreferenceTask
from data_prep.writer import ShardWriter
from recipe.critic_r1.commands_judge import register

APP = typer.Typer()
register(APP)


def say(choice: object) -> str:
    return f"<think>Looked.</think>\\boxed{{{choice}}}"


def serve(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that prefers the larger number; a policy whose samples are 0, 1, 2, ..."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    pair = re.search(r"Response 1: (\d+)\nResponse 2: (\d+)", text)
    if pair:
        return answer(body, say(1 if int(pair[1]) > int(pair[2]) else 2))
    sampled = answer(body)
    for i, choice in enumerate(sampled["choices"]):
        choice["message"]["content"] = say(i)
    return sampled


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "test.parquet"
    with ShardWriter(path) as writer:
        for i in range(6):
            picture = Picture(b"\x89PNG" + bytes([i]))
            category = "reasoning" if i < 2 else "general"
            pair = PreferencePair("vl_rewardbench", (picture,), "How many?", ("7", "3"), 0, {"category": category})
            for order in (0, 1):
                writer.write(PreferenceTask(pair, order, "test", i, get_wording("compact")).row())
            writer.write(PolicyTask("counts", (picture,), "How many?", "3", "test", i).row())
    return path.parent


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(a) for a in arguments])


def test_judge(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(serve) as server:
        command = ("judge", data, "--model", "m", "--base-url", server.url, "--out", out)
        first = run(*command)
        assert first.exit_code == 0, first.output
        assert len(server.bodies) == 12
        assert run(*command).exit_code == 0
        assert len(server.bodies) == 12, "the second run costs nothing"
    metrics = json.loads((out / "judge.json").read_text())["metrics"]
    assert metrics["critic/accuracy_both_orders"]["value"] == 1
    assert {name for name in metrics if name.startswith("official/")} == {
        "official/overall", "official/macro", "official/category/general", "official/category/reasoning",
    }  # fmt: skip
    assert len((out / "judgements.jsonl").read_text().splitlines()) == 12
    assert "swap_consistency" in first.output


def test_judge_says_when_requests_failed(data: Path, tmp_path: Path) -> None:
    with FakeServer(lambda n, body: "400" if "Response 1: 3" in json.dumps(body) else serve(n, body)) as server:
        result = run("judge", data, "--model", "m", "--base-url", server.url, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "6 of 12 requests failed: run the same command again" in result.output


def test_best_of_n(data: Path, tmp_path: Path) -> None:
    """Samples 0 to 3, the truth is 3, the critic likes the largest: best of 4 is always right."""
    out = tmp_path / "out"
    with FakeServer(serve) as server:
        result = run("best-of-n", data, "--model", "m", "--base-url", server.url, "--out", out, "--n", 4, "--shown",
                     "answer", "--wording", "compact")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads((out / "best_of_n.json").read_text())
    assert found["metrics"]["best_of_4/knock_out"]["value"] == 1
    assert found["metrics"]["best_of_4/one_sample"]["value"] == 0.25
    assert [p["value"] for p in found["curves"]["knock_out"]] == [0.25, 0.5, 1.0]
    assert found["bill"]["matches"] == 6 * 3
    assert found["bill"]["judgements"] == 6 * 3 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best-of-n", "--n", "6"), "no power of two"),
        (("best-of-n", "--shown", "half"), "neither answer nor response"),
        (("best-of-n", "--wording", "nonsense"), "no wording 'nonsense'"),
        (("judge", "--verdicts", "kind"), "neither strict nor lenient"),
        (("judge", "--votes", "3"), "set a temperature"),
    ],
)
def test_impossible_wishes_are_refused(data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    command, *rest = arguments
    result = run(command, data, "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path / "o", *rest)
    assert result.exit_code == 2
    assert message in result.output


def test_a_wrong_model_name_is_said_at_once(data: Path, tmp_path: Path) -> None:
    with FakeServer(lambda n, body: "404") as server:
        result = run("judge", data, "--model", "typo", "--base-url", server.url, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "check address, model name and key" in result.output
