"""Whatever happens on the way, the numbers at the end are those of a quiet day, and no answer is paid for twice.

Each command is run once undisturbed and once with an accident, and run again until it ends well. Then its results must
be the same to the letter, and the server must have answered each distinct request exactly once.
"""

import hashlib
import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair
from data_prep.writer import write_parquet
from recipe.critic_r1.cli import best_of_n, judge, label
from recipe.critic_r1.judging.intervals import ClusterBootstrap
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from tests.data_prep.made_images import make_image
from tests.judging.fake_server import Behaviour, FakeServer, answer
from tests.judging.test_openai_client import PASSING, full_disk

APP = typer.Typer()
for _module in (judge, best_of_n, label):
    _module.register(APP)

COMMANDS = ("judge", "best-of-n", "label")

UNDISTURBED: dict[str, Any] = {}
"""Command -> its results on a quiet day, and what it asked."""

RESULTS = {"judge": "judge.json", "best-of-n": "best_of_n.json", "label": "judged.jsonl"}


def drawn(body: dict[str, Any], *more: object) -> float:
    """A number in [0, 1) that depends on the request alone."""
    said = json.dumps([body["messages"], body.get("seed"), *more]).encode()
    return hashlib.sha256(said).digest()[0] / 256


def serve(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    """A critic that likes the larger number, mostly, and sometimes cannot be read; a policy that draws digits."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    pair = re.search(r"Response 1: (\d+)\nResponse 2: (\d+)", text)
    made = answer(body)
    for i, choice in enumerate(made["choices"]):
        mood = drawn(body, i)
        said: object = int(10 * mood)
        if pair:
            said = "" if mood < 0.05 else 1 if (int(pair[1]) > int(pair[2])) == (mood < 0.75) else 2
        choice["message"]["content"] = f"<think>Looked.</think>\\boxed{{{said}}}"
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Arguments of each command: 30 pairs to judge, 3 questions to answer, 6 prompts with 3 responses to label."""
    tmp_path = tmp_path_factory.mktemp("data")
    images = [Image(make_image(i, form="PNG")) for i in range(30)]
    pairs = [PreferencePair("made", (p,), f"How many {i}?", ("7", "3"), 0) for i, p in enumerate(images)]
    write_parquet(preference_tasks(pairs, split="test", orders="both", template="compact"), tmp_path / "pairs")
    policy = [PolicyTask("counts", (p,), f"How many {i}?", "7", "test", i) for i, p in enumerate(images[:3])]
    write_parquet(policy, tmp_path / "policy")
    lines = []
    for i, p in enumerate(images[:6]):
        assert p.data is not None
        (tmp_path / f"{i}.png").write_bytes(p.data)
        lines.append(json.dumps({"question": f"How many {i}?", "image": f"{i}.png", "responses": ["1", "4", "6"]}))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    return {
        "judge": [str(tmp_path / "pairs"), "--votes", "3", "--temperature", "1"],
        "best-of-n": [str(tmp_path / "policy"), "--n", "8", "--shown", "answer", "--template", "compact",
                      "--selector", "weighted_knock_out"],
        "label": [str(tmp_path / "prompts.jsonl"), "--template", "compact"],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and few draws for the intervals: equal figures have equal intervals with any number."""
    for what, name, value in ((OpenAIGenerator, "first_pause", 0.001), (ClusterBootstrap, "resamples", 50)):
        assert what.__init__.__kwdefaults__ is not None
        monkeypatch.setitem(what.__init__.__kwdefaults__, name, value)


class Runs:
    """Runs a command with its data against a server; remembers what was answered."""

    def __init__(self, command: str, data: dict[str, list[str]], folder: Path) -> None:
        self.command, self.arguments, self.folder = command, data[command], folder
        self.paid: Counter[str] = Counter()

    def __call__(self, behaviour: Behaviour, out: str = "out", port: int = 0) -> Any:
        with FakeServer(behaviour, port) as server:
            result = self.against(server.url, out)
        self.paid += server.answered
        return result

    def against(self, url: str, out: str = "out") -> Any:
        words = [self.command, *self.arguments, "--model", "m", "--base-url", url, "--out", str(self.folder / out)]
        return CliRunner().invoke(APP, [*words, "--concurrency", "8"])

    def check(self) -> None:
        """The results of `out` are those of an undisturbed run, and nothing was paid for twice."""
        found = self._results("out")
        assert set(self.paid.values()) == {1}, "paid once each"
        if self.command not in UNDISTURBED:
            asked, self.paid = self.paid, Counter()
            assert self(serve, "undisturbed").exit_code == 0
            UNDISTURBED[self.command] = self._results("undisturbed"), self.paid
            self.paid = asked
        assert (found, self.paid) == UNDISTURBED[self.command]

    def _results(self, out: str) -> Any:
        text = (self.folder / out / RESULTS[self.command]).read_text()
        if self.command == "label":
            return text
        return {k: v for k, v in json.loads(text).items() if k not in ("base_url", "traffic")}


@pytest.fixture(params=COMMANDS)
def runs(request: pytest.FixtureRequest, data: dict[str, list[str]], tmp_path: Path) -> Runs:
    return Runs(request.param, data, tmp_path)


def on(share: float, fault: Callable[[float], str], attempts: int = 1) -> Behaviour:
    """A server that makes a fault of the first attempts at a share of the requests."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        mood = drawn(body, "fault")
        return fault(mood / share) if mood < share and attempt <= attempts else serve(attempt, body)

    return behaviour


def test_one_in_five_requests_fails(runs: Runs) -> None:
    assert runs(on(0.2, lambda mood: PASSING[int(mood * len(PASSING))])).exit_code == 0
    runs.check()


def test_garbage_that_stays_is_a_failure_until_the_server_is_mended(runs: Runs) -> None:
    """All attempts at a tenth of the requests bring garbage: the command says so, and its next run asks only these."""
    garbage = ("broken json", "html", "bytes", "other json", "no choices", "null text")
    result = runs(on(0.1, lambda mood: garbage[int(mood * len(garbage))], attempts=99))
    assert result.exit_code in (1, 2), result.output
    assert runs(serve).exit_code == 0
    if runs.command == "best-of-n":
        # A judgement that is missing changes who meets whom; what such rounds cost beyond is not paid twice either.
        assert set(runs.paid.values()) == {1}
        return
    runs.check()


def test_a_server_is_killed_and_another_takes_its_place(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OpenAIGenerator.__init__.__kwdefaults__, "first_pause", 0.05)  # type: ignore[arg-type]
    dead = threading.Event()
    answered = 0

    def dies(attempt: int, body: dict[str, Any]) -> Any:
        nonlocal answered
        answered += 1
        if answered <= 3:
            return serve(attempt, body)
        dead.set()
        return "hang up"

    first = FakeServer(dies)
    results: list[Any] = []
    runner = threading.Thread(target=lambda: results.append(runs.against(first.url)))
    with first:
        runner.start()
        assert dead.wait(30)
    with FakeServer(serve, port=first.port) as second:
        runner.join(60)
    assert results[0].exit_code == 0, results[0].output
    runs.paid = first.answered + second.answered
    runs.check()


def test_ctrl_c(runs: Runs) -> None:
    """Ctrl-C while eight requests are under way: they are waited for, and the next run asks the rest."""
    seen = 0

    def pressed(attempt: int, body: dict[str, Any]) -> Any:
        nonlocal seen
        seen += 1
        if seen == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return serve(attempt, body)

    result = runs(pressed)
    assert result.exit_code == 128 + signal.SIGINT
    assert "they are paid for; Ctrl-C again drops them" in result.output
    assert not (runs.folder / "out" / f"{runs.command.replace('-', '_')}.json").exists()
    asked = len(runs.paid)
    assert 4 <= asked <= 4 + 8
    assert runs(serve).exit_code == 0
    runs.check()


def test_a_full_disk(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    out = runs.folder / "out"
    with monkeypatch.context() as patch:
        full_disk(patch, 1000, out / ".answers.jsonl.reserve", more=8000)
        result = runs(serve)
    assert result.exit_code == 2
    assert "free some and run again" in result.output
    assert (out / "answers.jsonl").read_bytes().count(b"\n") == len(runs.paid) > 0
    assert runs(serve).exit_code == 0
    runs.check()
