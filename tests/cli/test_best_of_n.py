"""`best-of-n` with every selector, from end to end against the fake server."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from data_prep.tasks.pairwise import Image, PolicyTask
from data_prep.writer import write_parquet
from recipe.critic_r1.cli.best_of_n import Selector, register
from tests.judging.fake_server import FakeServer, prefers_larger

APP = typer.Typer()
register(APP)

QUESTIONS = 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = [Image(b"\x89PNG" + bytes([i])) for i in range(QUESTIONS)]
    tasks = [PolicyTask("counts", (p,), "How many?", "7", "test", i) for i, p in enumerate(images)]
    write_parquet(tasks, tmp_path / "data")
    return tmp_path / "data"


def shown(result: Any) -> str:
    """The output in one line, without the frame around usage errors."""
    return " ".join(result.output.replace("│", " ").split())


def run(data: Path, url: str, out: Path, *further: object) -> Any:
    command = [data, "--model", "m", "--base-url", url, "--out", out, "--shown", "answer", "--template",
               "compact", *further]  # fmt: skip
    return CliRunner().invoke(APP, [str(word) for word in command])


def test_all_selectors_on_the_same_candidates(data: Path, tmp_path: Path) -> None:
    selectors = [word for name in Selector for word in ("--selector", name)]
    with FakeServer(prefers_larger) as server:
        result = run(data, server.url, tmp_path / "out", "--n", 8, "--small-n", 4, *selectors)
        assert result.exit_code == 0, result.output
        paid = len(server.bodies)
        assert run(data, server.url, tmp_path / "out", "--n", 8, "--small-n", 4, *selectors).exit_code == 0
        assert len(server.bodies) == paid, "the second run costs nothing"
    found = json.loads((tmp_path / "out" / "best_of_n.json").read_text())
    assert paid == QUESTIONS + found["bill"]["judgements"]
    assert (found["sampling"]["temperature"], found["critic_sampling"]["temperature"]) == (1, 0)
    assert found["traffic"]["policy"] == {"sent": 0, "retried": 0, "reused": QUESTIONS, "failed": 0}
    curves = found["curves"]
    assert set(curves) == {"knock_out", "one_sample", "majority", "oracle", *Selector}
    assert [p["value"] for p in curves["weighted_knock_out"]] == [0.125, 0.25, 0.5, 1.0]
    assert [p["value"] for p in curves["round_robin"]] == [0.125, 0.25, 0.5]
    assert [p["judgements"] for p in curves["knock_out"]] == [0, 2, 6, 14]
    assert [p["judgements"] for p in curves["round_robin"]] == [0, 2, 12]
    # The server counts 16 tokens a judgement, and 11 + 5 for the request that drew all eight candidates.
    assert curves["knock_out"][-1]["tokens"] == 14 * 16 + 16
    more = 14 * 16 + 5 * 7 / 8
    assert curves["knock_out"][-1]["tokens_per_point"] == pytest.approx(more / 87.5)
    assert curves["one_sample"][-1]["tokens_per_point"] is None
    assert found["metrics"]["best_of_8/weighted_knock_out"]["value"] == 1
    assert found["metrics"]["best_of_4/round_robin_minus_one_sample"]["value"] == pytest.approx(0.375)


def test_another_critic_at_another_address(data: Path, tmp_path: Path) -> None:
    with FakeServer(prefers_larger) as policy, FakeServer(prefers_larger) as critic:
        result = run(
            data, policy.url, tmp_path / "out", "--n", 2, "--critic-model", "judge", "--critic-url", critic.url
        )
    assert result.exit_code == 0, result.output
    assert {body["model"] for body in policy.bodies} == {"m"}
    assert {body["model"] for body in critic.bodies} == {"judge"}
    assert (len(policy.bodies), len(critic.bodies)) == (QUESTIONS, 2 * QUESTIONS)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (("--selector", "lottery"), "'lottery' is not one of 'weighted_knock_out', 'round_robin'"),
        (("--small-n", 3), "is not a power of two"),
        (("--n", 6), "is not a power of two"),
        (("--shown", "half"), "'half' is not one of 'answer', 'response'"),
        (("--template", "nonsense"), "no template 'nonsense'"),
    ],
)
def test_impossible_wishes_are_refused(data: Path, tmp_path: Path, further: tuple[object, ...], message: str) -> None:
    result = run(data, "http://127.0.0.1:9/v1", tmp_path / "out", *further)
    assert result.exit_code == 2
    assert message in shown(result)
