"""`judge` and `compare` from end to end against the fake server."""

import gc
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, PreferenceTask
from data_prep.tasks.prompts import get_template
from data_prep.writer import ShardWriter
from recipe.critic_r1.cli.judge import register
from recipe.critic_r1.judging import official
from tests.judging.fake_server import FakeServer, answer, prefers_larger, say

APP = typer.Typer()
register(APP)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "test.parquet"
    with ShardWriter(path) as writer:
        for i in range(6):
            image = Image(b"\x89PNG" + bytes([i]))
            category = "reasoning" if i < 2 else "general"
            pair = PreferencePair("vl_rewardbench", (image,), "How many?", ("7", "3"), 0, {"category": category})
            for order in (0, 1):
                writer.write(PreferenceTask(pair, order, "test", i, get_template("compact")).row())
            writer.write(PolicyTask("counts", (image,), "How many?", "3", "test", i).row())
    return path.parent


def shown(result: Any) -> str:
    """The output in one line, without the frame around usage errors."""
    return " ".join(result.output.replace("│", " ").split())


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(a) for a in arguments])


def test_judge(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(prefers_larger) as server:
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
    assert metrics["category/reasoning/position_bias"]["n"] == 2
    assert metrics["length/bias"]["n"] == 0, "all responses have one character"
    assert len((out / "judgements.jsonl").read_text().splitlines()) == 12
    for figure in ("swap_consistency", "length/bias", "category/general/accuracy"):
        assert figure in first.output


def test_judge_says_when_requests_failed(data: Path, tmp_path: Path) -> None:
    def refuse_some(attempt: int, body: dict[str, Any]) -> Any:
        return "400" if "Response 1: 3" in json.dumps(body) else prefers_larger(attempt, body)

    with FakeServer(refuse_some) as server:
        result = run("judge", data, "--model", "m", "--base-url", server.url, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "6 of 12 requests failed: run the same command again" in result.output


TEMPLATE = """
def prompt(row):
    prompt_str = f"Q: {data_obj['query']} (1) {answers[0]} (2) {answers[1]} Say: Overall Judgment: Answer X is better."
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A repository in the form of the official one, with a template of our own that is taken for the official one."""
    (tmp_path / "repository").mkdir()
    path = tmp_path / "repository" / "prompt.py"
    path.write_text(TEMPLATE)
    protocol = official.PROTOCOLS["vl_rewardbench"]
    sha256 = official.template_sha256(official._pieces(path, protocol))
    monkeypatch.setitem(official.PROTOCOLS, "vl_rewardbench", replace(protocol, sha256=sha256))
    return path.parent


def test_official_prompt(data: Path, tmp_path: Path, made_up: Path) -> None:
    """The judge reads the official words, answers in their form, and likes the larger number."""

    def judge(attempt: int, body: dict[str, Any]) -> Any:
        shown = re.fullmatch(r"Q: How many\? \(1\) (\d) \(2\) (\d) Say: .*", body["messages"][0]["content"][0]["text"])
        assert shown is not None
        return answer(
            body, f"Answer 1 is short.\n**Overall Judgment:** Answer {1 if shown[1] > shown[2] else 2} is better."
        )

    command = ("judge", data, "--model", "m", "--out", tmp_path / "out", "--prompt", "official")
    with FakeServer(judge) as server:
        result = run(*command, "--official-code", made_up, "--base-url", server.url)
        assert result.exit_code == 0, result.output
        (body, *_) = server.bodies
        assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "image_url"]
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.2, 0.2, 2048)
        result = run(*command, "--official-code", made_up, "--base-url", server.url, "--temperature", 0)
        assert result.exit_code == 0, result.output
        assert (server.bodies[-1]["temperature"], server.bodies[-1]["top_p"]) == (0, 0.2)
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert found["metrics"]["critic/accuracy_both_orders"]["value"] == 1
    assert "critic/format_rate" not in found["metrics"]
    assert (found["prompt"], found["verdicts"]) == ("official", "lenient")


def test_official_prompt_takes_no_strict_verdicts(data: Path, tmp_path: Path, made_up: Path) -> None:
    result = run("judge", data, "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path / "o",
                 "--prompt", "official", "--official-code", made_up, "--verdicts", "strict")  # fmt: skip
    assert result.exit_code == 2
    assert "which --prompt official does not ask for" in result.output


def test_compare(data: Path, tmp_path: Path) -> None:
    """A critic that knows against one that always takes the first place, then against one on half of the data."""
    for name, rule in (("first", lambda n, body: answer(body, say(1))), ("knows", prefers_larger)):
        with FakeServer(rule) as server:
            assert (
                run("judge", data, "--model", name, "--base-url", server.url, "--out", tmp_path / name).exit_code == 0
            )
    result = run("compare", tmp_path / "first", tmp_path / "knows", "--out", tmp_path / "sub" / "compare.json")
    assert result.exit_code == 0, result.output
    assert "model: first and knows" in result.output
    assert "0 only in the first, 6 only in the second run" in " ".join(result.output.split())
    found = json.loads((tmp_path / "sub" / "compare.json").read_text())
    assert found["mcnemar"] == {"only_first": 0, "only_second": 6, "p_value": 2 / 2**6}
    assert found["figures"]["accuracy"]["difference"]["value"] == 0.5
    assert found["figures"]["position_bias"]["difference"]["value"] == -1
    assert (found["first"]["model"], found["second"]["model"], found["pairs"]) == ("first", "knows", 6)

    short = tmp_path / "knows" / "judgements.jsonl"
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:-2]))
    result = run("compare", tmp_path / "first", tmp_path / "knows")
    assert result.exit_code == 2
    assert "the two runs judge different items: 2 of 12 only in the first" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("judge", "--verdicts", "kind"), "'kind' is not one of 'strict', 'lenient'"),
        (("judge", "--votes", "3"), "set a temperature"),
        (("judge", "--prompt", "mine"), "'mine' is not one of 'r1', 'official'"),
        (("judge", "--official-code", "."), "--official-code needs --prompt official"),
        (("judge", "--prompt", "official"), "is not shipped: clone https://github.com/vl-rewardbench/VL_RewardBench"),
    ],
)
def test_impossible_wishes_are_refused(data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    command, *rest = arguments
    result = run(command, data, "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path / "o", *rest)
    assert result.exit_code == 2
    assert message in shown(result)


def test_a_wrong_model_name_is_said_at_once(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeServer(lambda n, body: "404") as server:
        result = run("judge", data, "--model", "typo", "--base-url", server.url, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "check address, model name and key" in result.output
    del result
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"], "said once, not by each worker"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("judge", "/no/such", "--model", "m", "--base-url", "http://127.0.0.1:1", "--out", "out"), "does not exist"),
        (("serve", "/no/such"), "/no/such is not a folder"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*command)
    assert result.exit_code == 2
    assert said in result.output
