"""The client against a server that does everything wrong at least once."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, Message, Sampling, TextPart
from recipe.critic_r1.judging.journal import Journal, JournalBusyError, JournalFullError
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from tests.judging.fake_server import Behaviour, FakeServer, answer

LIBRARY: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The client's HTTP library."""

PNG = b"\x89PNG\r\n\x1a\n image"

PASSING = [
    "408", "409", "429", "500", "502", "503", "cut", "hang up", "broken json", "html", "bytes", "other json", "list",
    "no choices", "null text",
]  # fmt: skip
"""Faults that may be gone at the next attempt."""


def request(text: object, **sampling: Any) -> GenerationRequest:
    return GenerationRequest((Message("user", (ImagePart(PNG), TextPart(str(text)))),), Sampling(**sampling))


def text_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][1]["text"])


def client(server: FakeServer, **settings: Any) -> OpenAIGenerator:
    return OpenAIGenerator("critic", server.url, **{"first_pause": 0.001, "attempts": 4, **settings})


def good(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    return answer(body)


def bad(fault: str) -> Behaviour:
    """A server that makes a fault of each request with the text `bad`."""
    return lambda attempt, body: fault if text_of(body) == "bad" else answer(body)


Asked = tuple[list[Generation], FakeServer, OpenAIGenerator]


def ask(behaviour: Behaviour, *requests: object, journal: Path | None = None, **settings: Any) -> Asked:
    """What a client of its own gets from a server of its own; a text is a request with it."""
    given = [one if isinstance(one, GenerationRequest) else request(one) for one in requests]
    with ExitStack() as stack:
        server = stack.enter_context(FakeServer(behaviour))
        if journal:
            settings["journal"] = stack.enter_context(Journal(journal))
        generator = stack.enter_context(client(server, **settings))
        return generator.generate(given), server, generator


def test_what_is_sent_and_what_comes_back() -> None:
    sampled = request("two", temperature=1.0, n=3, seed=7, max_tokens=9, top_p=0.9)
    (first, second), server, _ = ask(good, "one", sampled, extra_body={"top_k": 5})
    assert (first.texts, first.finish_reasons, first.prompt_tokens) == (("one",), ("stop",), 11)
    assert second.texts == ("two",) * 3
    body = next(b for b in server.bodies if b["n"] == 3)
    expected = {"model": "critic", "temperature": 1.0, "top_p": 0.9, "max_tokens": 9, "seed": 7, "top_k": 5}
    assert {k: body[k] for k in expected} == expected
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "two"}
    assert "seed" not in next(b for b in server.bodies if b["n"] == 1)


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_tried_again(fault: str) -> None:
    (generation,), _, generator = ask(lambda n, body: fault if n < 3 else answer(body), "hello")
    assert (generation.texts, generation.error) == (("hello",), None)
    assert (generator.traffic.retried, generator.traffic.failed) == (2, 0)


@pytest.mark.parametrize("fault", PASSING)
def test_what_stays_wrong_is_a_failure_and_not_an_answer(fault: str) -> None:
    (failed, fine), server, generator = ask(bad(fault), "bad", "fine")
    assert failed.texts == ()
    assert failed.error
    assert fine.texts == ("fine",)
    assert [text_of(body) for body in server.bodies].count("bad") == 4
    assert generator.traffic.failed == 1


def test_a_hanging_server_runs_into_the_time_out() -> None:
    (generation,), _, generator = ask(lambda n, body: "hang" if n == 1 else answer(body), "hello", timeout=0.3)
    assert generation.texts == ("hello",)
    assert generator.traffic.retried == 1


def test_a_request_that_the_server_rejects_is_not_repeated() -> None:
    """400: this prompt is too long, say. The others are not its fault."""
    (failed, fine), server, _ = ask(bad("400"), "bad", "fine")
    assert "400" in str(failed.error)
    assert fine.texts == ("fine",)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_server_that_refuses_everything_stops_the_run(status: str) -> None:
    with FakeServer(lambda n, body: status) as server, client(server, concurrency=2) as generator:
        with pytest.raises(ServerRefusedError, match="check address, model name and key"):
            generator.generate([request(i) for i in range(50)])
        assert len(server.bodies) <= 4


def test_an_unknown_image_format_is_a_failure_before_anything_is_sent() -> None:
    (generation,), server, _ = ask(good, GenerationRequest((Message("user", (ImagePart(b"not an image"),)),)))
    assert "is not a PNG" in str(generation.error)
    assert server.bodies == []


def test_separated_reasoning_is_put_back() -> None:
    (generation,), *_ = ask(lambda n, body: answer(body, "\\boxed{1}", reasoning_content="Looked."), "hello")
    assert generation.text == "<think>Looked.</think>\\boxed{1}"


def test_at_most_so_many_in_flight_and_each_once() -> None:
    """The server answers only when four requests are there at once: fewer would never end, more would show."""
    gate = threading.Barrier(4, timeout=20)

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        gate.wait()
        return answer(body)

    generations, server, _ = ask(behaviour, *range(40), concurrency=4)
    assert [g.texts for g in generations] == [(str(i),) for i in range(40)]
    assert server.most_in_flight == 4
    assert set(server.answered.values()) == {1}


def test_equal_requests_of_a_batch_are_sent_once() -> None:
    generations, server, generator = ask(good, "a", "b", "a")
    assert [g.texts for g in generations] == [("a",), ("b",), ("a",)]
    assert len(server.bodies) == 2
    assert (generator.traffic.sent, generator.traffic.reused) == (2, 1)


def test_a_repeated_run_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for asked in (10, 0):
        generations, server, _ = ask(good, *range(10), journal=path)
        assert [g.text for g in generations] == [str(i) for i in range(10)]
        assert len(server.bodies) == asked
    with FakeServer(good) as server, Journal(path) as journal:
        with OpenAIGenerator("another", server.url, journal=journal) as generator:
            generator.generate([request(0)])
        assert len(server.bodies) == 1, "another model is another answer"


def test_failures_are_asked_again_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    found, *_ = ask(
        lambda n, body: "503" if int(text_of(body)) % 2 else answer(body), *range(6), journal=path, attempts=1
    )
    assert [g.error is None for g in found] == [True, False] * 3
    found, server, _ = ask(good, *range(6), journal=path)
    assert all(g.error is None for g in found)
    assert sorted(map(text_of, server.bodies)) == ["1", "3", "5"]


def test_one_in_five_faults_changes_no_answer(tmp_path: Path) -> None:
    """Every kind of fault, on a fifth of all first attempts: the answers are those of a quiet server."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        number = int(text_of(body))
        return PASSING[number // 5 % len(PASSING)] if number % 5 == 0 and attempt == 1 else answer(body)

    generations, server, generator = ask(behaviour, *range(200), journal=tmp_path / "j.jsonl", concurrency=16)
    assert [g.texts for g in generations] == [(str(i),) for i in range(200)]
    assert generator.traffic.retried == 40
    assert set(server.answered.values()) == {1}


def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    """The server falls silent in the middle of a batch, then its port is dead, then another one answers there."""
    silent = threading.Event()

    def falls_silent(attempt: int, body: dict[str, Any]) -> Any:
        if int(text_of(body)) < 20:
            return answer(body)
        silent.set()
        return "hang up"

    first = FakeServer(falls_silent)
    result: list[Any] = []
    with (
        Journal(tmp_path / "j.jsonl") as journal,
        client(first, journal=journal, concurrency=4, attempts=30, first_pause=0.05) as generator,
    ):
        runner = threading.Thread(target=lambda: result.extend(generator.generate([request(i) for i in range(40)])))
        with first:
            runner.start()
            assert silent.wait(20)
        with FakeServer(good, port=first.port) as second:
            runner.join(30)
            assert not runner.is_alive()
    assert [g.texts for g in result] == [(str(i),) for i in range(40)]
    paid = first.answered + second.answered
    assert set(paid.values()) == {1}
    assert len(paid) == 40


RUN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.judging.test_openai_client import request
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
with Journal(Path({path!r})) as journal:
    with OpenAIGenerator("critic", {url!r}, journal=journal, concurrency=4) as generator:
        print(len(generator.generate([request(i) for i in range(60)])))
"""


@pytest.mark.parametrize(("sign", "kept"), [(signal.SIGKILL, 30), (signal.SIGINT, 34)])
def test_a_stopped_run_resumes(tmp_path: Path, sign: signal.Signals, kept: int) -> None:
    """Four requests are under way when it is stopped. Ctrl-C waits for them; a killed run cannot."""
    path = tmp_path / "j.jsonl"
    release = threading.Event()

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        if int(text_of(body)) >= 30:
            release.wait(20)
        return answer(body)

    with FakeServer(behaviour) as server:
        code = RUN.format(tests=str(Path(__file__).parents[2]), path=str(path), url=server.url)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not path.exists() or path.read_bytes().count(b"\n") < 30 or len(server.bodies) < 34:
            assert process.poll() is None, process.communicate()[1]
            threading.Event().wait(0.02)
        process.send_signal(sign)
        if sign == signal.SIGINT:
            assert process.stderr is not None
            assert "waiting for 4 requests in flight" in process.stderr.readline()
            release.set()
        process.communicate(timeout=20)
        assert process.returncode != 0
        release.set()
        assert path.read_bytes().count(b"\n") == kept
        asked = len(server.bodies)
        assert asked == 34
        with Journal(path) as journal, client(server, journal=journal) as generator:
            generations = generator.generate([request(i) for i in range(60)])
    assert [g.texts for g in generations] == [(str(i),) for i in range(60)]
    assert len(server.bodies) - asked == 60 - kept
    assert not list(tmp_path.glob(".*reserve")), "the reserve is gone when the journal is closed"


def full_disk(patch: pytest.MonkeyPatch, room: int, reserve: Path, more: int = 2000) -> None:
    """Let `os.write` find room for so many bytes, and for so many more once the reserve is gone."""
    write, left = os.write, room

    def bounded(fd: int, data: bytes) -> int:
        nonlocal left
        if len(data) > left + (0 if reserve.exists() else more):
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= len(data)
        return write(fd, data)

    patch.setattr(os, "write", bounded)


def test_a_full_disk_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    requests = [request(i) for i in range(100)]
    with FakeServer(good) as server:
        with (
            Journal(path) as journal,
            client(server, journal=journal, concurrency=4) as generator,
            monkeypatch.context() as patch,
        ):
            full_disk(patch, 1000, tmp_path / ".j.jsonl.reserve")
            with pytest.raises(JournalFullError, match="free some and run again"):
                generator.generate(requests)
        written = path.read_bytes().count(b"\n")
        assert 0 < written < 100
        assert sum(server.answered.values()) == written, "all that was paid for is kept"
        with Journal(path) as journal, client(server, journal=journal) as generator:
            assert len(generator.generate(requests)) == 100
    assert set(server.answered.values()) == {1}


def test_a_torn_line_is_dropped_and_a_broken_one_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = '{"key": "a", "texts": ["x"], "finish_reasons": ["stop"], "prompt_tokens": 1, "completion_tokens": 1}\n'
    path.write_text(whole + whole[:40])
    with Journal(path) as journal:
        assert len(journal) == 1
    assert path.read_text() == whole
    path.write_text(whole + "{not json}\n" + whole)
    with pytest.raises(ValueError, match=r"j\.jsonl line 2 is not a record"):
        Journal(path)


def test_two_runs_cannot_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl"), pytest.raises(JournalBusyError, match="in use by another run"):
        Journal(tmp_path / "j.jsonl")
    Journal(tmp_path / "j.jsonl").close()


@pytest.mark.parametrize(
    "settings",
    [{"concurrency": 0}, {"attempts": 0}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": float("inf")}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        OpenAIGenerator("m", "http://127.0.0.1:1/v1", **settings)
