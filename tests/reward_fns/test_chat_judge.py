"""The critic of the group reward against servers that misbehave: a verdict, an unreadable one, or a failure."""

import asyncio
import gzip
from typing import Any

import pytest

from reward_fns.bounded_http import LARGEST_BODY
from reward_fns.by_path import sibling
from reward_fns.chat_judge import ChatJudge
from reward_fns.group import JudgeFailedError
from tests.judging.fake_server import FakeServer, answer
from tests.judging.test_address import http
from tests.judging.test_finality import body, status

VERDICT = "<think>Looked.</think>\\boxed{1}"

VERDICTS = [
    (body(VERDICT), "1"),
    (body([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "\\boxed{2}"}]), "2"),
    (body("\\boxed{1}", reasoning="hm"), "1"),
    (body(VERDICT, usage={"prompt_tokens": "many", "completion_tokens": [1]}), "1"),
    (body(VERDICT, usage=None), "1"),
    (body(None, refusal="no"), None),
    (body(None, "content_filter"), None),
    (body(None, "length", reasoning="Maybe \\boxed{1}"), None),
    (body("A guess \\boxed{1}, but", "length"), None),
    (body("\ud800\\boxed{1}"), "1"),
]

FAILURES = [
    {"error": {"code": 429, "message": "upstream"}},
    body("<think>x</think>\\boxed{1}", "error"),
    body("<think>x</think>\\boxed{1}", "tool_calls"),
    body("<think>x</think>\\boxed{1}", None),
    body("", usage={"completion_tokens": 0}),
    {"choices": []},
    {"choices": [{"finish_reason": "stop", "message": None}]},
    status(401, message="bad key sk-the-key"),
    status(500, message="down"),
    "html",
    "cut",
    "hang up",
    "list",
]


SCORES = [
    (body("<think>Looked.</think>\\boxed{7}"), 0.7),
    (body("\\boxed{8/10}"), 0.8),
    (body("\\boxed{0}"), 0.0),
    (body("<think>Looked.</think>\\boxed{10}", "length"), 1.0),
    (body("\\boxed{11}"), None),
    (body("\\boxed{8/5}"), None),
    (body("\\boxed{seven}"), None),
    (body("Seven."), None),
    (body("\\boxed{7}, or", "length"), None),
    (body("\\boxed{7} or \\boxed{8}"), None),
    (body(None, "content_filter"), None),
    (body(None, refusal="no"), None),
]


def ask(url: str, *, critic: Any = ChatJudge, score: bool = False, **settings: Any) -> Any:
    async def run() -> Any:
        options: dict[str, Any] = {"attempts": 2, "first_pause": 0.001, "api_key": "sk-the-key", **settings}
        async with critic(url, "m", **options) as opened:
            judge = opened.about("How many?")
            return await (judge.score("7") if score else judge("7", "3"))

    return asyncio.run(run())


@pytest.mark.parametrize(("reply", "choice"), VERDICTS)
def test_what_the_critic_said(reply: Any, choice: str | None) -> None:
    with FakeServer(lambda n, sent: reply) as server:
        assert ask(server.url) == choice
        assert len(server.bodies) == 1


@pytest.mark.parametrize(("reply", "score"), SCORES)
def test_what_score_the_critic_gave(reply: Any, score: float | None) -> None:
    with FakeServer(lambda n, sent: reply) as server:
        assert ask(server.url, score=True) == score
        assert len(server.bodies) == 1


@pytest.mark.parametrize("score", [False, True])
@pytest.mark.parametrize("reply", FAILURES)
def test_what_is_no_answer(reply: Any, score: bool) -> None:
    with FakeServer(lambda n, sent: reply) as server, pytest.raises(JudgeFailedError) as error:
        ask(server.url, score=score)
    assert "sk-the-key" not in str(error.value)


def test_a_file_loaded_by_its_path_scores_as_well() -> None:
    with FakeServer(lambda n, sent: answer(sent, "\\boxed{7}")) as server:
        assert ask(server.url, critic=sibling("chat_judge").ChatJudge, score=True) == 0.7


@pytest.mark.parametrize(
    "reply",
    [
        http(200, b" " * (LARGEST_BODY + 1)),
        http(500, b" " * (LARGEST_BODY + 1), length=False),
        http(200, gzip.compress(bytes(LARGEST_BODY + 1)), "Content-Encoding: gzip"),
    ],
)
@pytest.mark.parametrize("by_path", [False, True])
def test_a_body_without_end_is_not_read(reply: Any, by_path: bool) -> None:
    critic = sibling("chat_judge").ChatJudge if by_path else ChatJudge
    too_large = pytest.raises(RuntimeError, match=f"a body of more than {LARGEST_BODY:,} bytes")
    with FakeServer(lambda n, sent: reply) as server, too_large:
        ask(server.url, critic=critic, attempts=1)


def test_a_redirect_is_not_followed() -> None:
    with FakeServer(lambda n, sent: answer(sent, VERDICT)) as other:
        reply = http(307, b"", f"Location: http://localhost:{other.port}/v1/chat/completions")
        with FakeServer(lambda n, sent: reply) as server, pytest.raises(JudgeFailedError):
            ask(server.url)
        assert other.bodies == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, host: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with FakeServer(lambda n, sent: answer(sent, VERDICT)) as server:
        assert ask(f"http://{host}:{server.port}/v1") == "1"


def test_the_organization_of_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")

    async def run() -> Any:
        async with ChatJudge("http://127.0.0.1:9/v1", "m", attempts=1, timeout=5) as critic:
            with pytest.raises(JudgeFailedError):
                await critic.about("q")("a", "b")
            return critic._client.organization

    assert asyncio.run(run()) is None
