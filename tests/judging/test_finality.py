"""What is final and what is a failure: how bodies are read, what is asked again, and what stops a run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.judging.generation import GenerationRequest, Message, Sampling, TextPart
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from recipe.critic_r1.judging.pairwise import JudgeTask, judgement_of
from reward_fns.replies import FilteredError, SenselessAnswerError, read_reply
from tests.judging.fake_server import FakeServer, answer


def body(content: Any, finish: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": finish, "message": {"content": content, **message}}], "usage": usage}


THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "1"}]

FINAL = [
    (body("x"), "x", "stop"),
    (body("x", "eos_token"), "x", "stop"),
    (body("x", "MAX_TOKENS"), "x", "length"),
    (body(None, "length"), "", "length"),
    (body(""), "", "stop"),
    (body("", usage={"completion_tokens": 1}), "", "stop"),
    (body([{"type": "text", "text": "x"}, {"type": "output_text", "text": "y"}]), "xy", "stop"),
    (body(THINKING), "<think>hm</think>1", "stop"),
    (body("1", reasoning_content="hm"), "<think>hm</think>1", "stop"),
    (body("1", reasoning="hm"), "<think>hm</think>1", "stop"),
    (body(None, "length", reasoning="hm"), "<think>hm", "length"),
    (body(None, reasoning="1"), "1", "stop"),
    (body("1", thinking="hm"), "<think>hm</think>1", "stop"),
    (body("1", reasoning_content=[{"type": "text", "text": "hm"}]), "<think>hm</think>1", "stop"),
    (body("1", reasoning_details=[{"type": "reasoning.text", "text": "hm"}]), "<think>hm</think>1", "stop"),
    (body("1", thinking_blocks=[{"type": "thinking", "thinking": "hm"}]), "<think>hm</think>1", "stop"),
    (body("1", reasoning={"content": "hm"}), "1", "stop"),
    (body("x", "model_context_window_exceeded"), "x", "length"),
    (body("x", "complete"), "x", "stop"),
    ({"error": None, **body("x")}, "x", "stop"),
    (body(None, refusal="no"), "", "refusal"),
    (body([{"type": "refusal", "refusal": "no"}]), "", "refusal"),
    (body(None, "refusal"), "", "refusal"),
    (body("\ud800x"), "\\ud800x", "stop"),
    (body("x", usage={"prompt_tokens": [1], "completion_tokens": "many"}), "x", "stop"),
    (body("x", usage=[1]), "x", "stop"),
    (body("x", usage={"prompt_tokens": float("inf")}), "x", "stop"),
    (body("x", usage={"prompt_tokens": 10**400, "completion_tokens": 1e300}), "x", "stop"),
    (body("x", usage={"prompt_tokens": -5, "completion_tokens": {"a": 1}}), "x", "stop"),
]

FAILURES = [
    {"error": {"code": 429, "message": "Rate limited upstream"}},
    {"error": "down"},
    {"object": "error", "message": "no such model", "code": 404},
    {"base_resp": {"status_code": 1008}, "choices": None},
    {"choices": "x"},
    {"choices": [{"finish_reason": "stop", "message": None}]},
    {"choices": [{"finish_reason": "stop", "text": "x"}]},
    {"choices": [{"message": {"content": "x"}}]},
    body("x", ["stop"]),
    body("x", "network_error"),
    body(None, tool_calls=[{"id": 1}]),
    body([{"type": "text", "text": None}]),
    {"choices": []},
    {"choices": [None]},
    {"choices": [{"finish_reason": "stop", "message": "x"}]},
    {"choices": {"0": 1}},
    {"choices": [*body("x")["choices"]] * 2},
    body(None),
    body("x", "error"),
    body("x", "tool_calls"),
    body("x", None),
    body(["x"]),
    body([{"type": "image"}]),
    body(5),
    body("", usage={"completion_tokens": 0}),
    {"choices": [{"finish_reason": "stop", "error": {"code": 502}, "message": {"content": "x"}}]},
    None,
    [],
    "text",
]


@pytest.mark.parametrize(("reply", "text", "reason"), FINAL)
def test_final_answers(reply: dict[str, Any], text: str, reason: str) -> None:
    found = read_reply(reply, 1)
    assert (found.texts, found.finish_reasons) == ((text,), (reason,))
    json.dumps(found).encode()
    assert all(type(count) is int and 0 <= count < 1e12 for count in found[2:])


@pytest.mark.parametrize("reply", FAILURES)
def test_bodies_that_are_not_answers(reply: Any) -> None:
    with pytest.raises(SenselessAnswerError):
        read_reply(reply, 1)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "sensitive", "guardrail_intervened", "IMAGE_SAFETY"])
@pytest.mark.parametrize("content", ["", None, "half an ans"])
def test_filtered_answers(content: str | None, reason: str) -> None:
    with pytest.raises(FilteredError):
        read_reply(body(content, reason), 1)


def request(text: str, **sampling: Any) -> GenerationRequest:
    return GenerationRequest((Message("user", (TextPart(text),)),), Sampling(**sampling))


def ask(url: str, journal: Path | None = None, count: int = 1, **settings: Any) -> Any:
    """Answers of a fresh client, and the client."""
    sampling = settings.pop("sampling", {})
    with OpenAIGenerator("m", url, first_pause=0.001, attempts=2, **settings) as generator:
        if journal is None:
            return generator.generate([request(str(i), **sampling) for i in range(count)]), generator
        with Journal(journal) as kept:
            generator._journal = kept
            return generator.generate([request(str(i), **sampling) for i in range(count)]), generator


def status(code: int, /, **error: Any) -> dict[str, Any]:
    return {"status": code, "body": {"error": error}}


@pytest.mark.parametrize(
    ("reply", "asked", "failure"),
    [
        (body(None, "content_filter"), 1, "filtered"),
        (status(400, code="content_filter", message="filtered"), 1, "filtered"),
        (status(403, message="Your input was flagged by moderation"), 1, "filtered"),
        (body(None, refusal="no"), 1, None),
        (body(None, "length"), 1, None),
        (status(400, message="maximum context length is 4096 tokens"), 2, "rejected"),
        (body("x", "error"), 4, "failed"),
        (body("x", "tool_calls"), 4, "failed"),
        ({"error": {"code": 429, "message": "upstream"}}, 4, "failed"),
    ],
)
def test_final_ones_are_asked_once_over_two_runs(tmp_path: Path, reply: Any, asked: int, failure: str | None) -> None:
    with FakeServer(lambda n, sent: reply) as server:
        for _ in range(2):
            ((found,), _) = ask(server.url, tmp_path / "j.jsonl")
        assert len(server.bodies) == asked
    assert (found.error is None) == (failure is None)
    assert failure is None or found.failure == failure


def line(**changed: Any) -> str:
    whole = {"key": "k", "texts": ["x"], "finish_reasons": ["stop"], "prompt_tokens": 1, "completion_tokens": 1}
    return json.dumps({**whole, **changed}) + "\n"


def test_an_old_journal_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line(finish_reasons=["error"]))
    with Journal(path) as journal:
        assert journal.get("k") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"texts": []},
        {"texts": ["x", "y"]},
        {"texts": [5]},
        {"texts": None},
        {"finish_reasons": []},
        {"prompt_tokens": "many"},
        {"texts": "x"},
    ],
)
def test_a_line_that_was_tampered_with_is_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line() + line(**changed))
    with pytest.raises(ValueError, match=r"j\.jsonl line 2 is not a record"):
        Journal(path)


@pytest.mark.parametrize("foreign", ["a thesis, unfinished", '{"question": "q"}', "\n".join("abc")])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(foreign)
    with pytest.raises(ValueError, match="is not a record"):
        Journal(path)
    assert path.read_text() == foreign


def test_what_is_not_a_file_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, said in (("pipe", "is not a file"), ("link", "is a symbolic link")):
        with pytest.raises(ValueError, match=said):
            Journal(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()


def test_texts_of_a_journal_can_be_sent_and_written(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line(texts=["\ud800x"]))
    with Journal(path) as journal:
        found = journal.get("k")
    assert found is not None
    assert found.text == "\\ud800x"


def test_another_number_of_texts_than_asked_for_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with FakeServer(lambda n, sent: answer(sent, "x")) as server:
        ask(server.url, path, sampling={"temperature": 1.0, "n": 2})
        path.write_text(path.read_text().replace('["x", "x"]', '["x"]').replace('["stop", "stop"]', '["stop"]'))
        ((found,), _) = ask(server.url, path, sampling={"temperature": 1.0, "n": 2})
    assert (found.texts, len(server.bodies)) == (("x", "x"), 2)


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (status(401, message="bad key"), "check address, model name and key"),
        (status(429, code="insufficient_quota", message="quota"), "no quota left"),
        (status(402, message="pay"), "no quota left"),
        (
            status(400, param="foo", code="unknown_parameter", message="Unknown parameter"),
            "--request NAME=VALUE",
        ),
        (status(407, message="proxy"), "the proxy requires a password"),
        ({"error": {"code": "insufficient_quota", "message": "quota"}}, "no quota left"),
        (status(400, message="model 7 does not exist"), "model 7 does not exist.*check address, model name"),
    ],
)
def test_lasting_failures_stop_a_run(reply: Any, remedy: str) -> None:
    with FakeServer(lambda n, sent: reply) as server:
        with pytest.raises(ServerRefusedError, match=remedy):
            ask(server.url, count=100, concurrency=4)
        assert len(server.bodies) <= 8


REFUSALS = [
    status(403, message="no"),
    status(400, message="Invalid image"),
    status(400, param="messages.[0].content", code="invalid_image", message="Invalid image"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_one_question_that_is_refused_costs_itself(tmp_path: Path, refusal: Any) -> None:
    """In the first run, and in a second one, where it is the only question that is still open."""

    def behaviour(n: int, sent: dict[str, Any]) -> Any:
        text = sent["messages"][0]["content"][0]["text"]
        return refusal if text == "3" else answer(sent, "x")

    with FakeServer(behaviour) as server:
        for _ in range(2):
            found, generator = ask(server.url, tmp_path / "j.jsonl", count=20, concurrency=4)
            assert [g.error is None for g in found] == [i != 3 for i in range(20)]
            assert list(generator.errors.values()) == [1]


def test_bad_images_in_a_row_cost_themselves_once_something_was_answered() -> None:
    def behaviour(n: int, sent: dict[str, Any]) -> Any:
        return REFUSALS[1] if int(sent["messages"][0]["content"][0]["text"]) >= 5 else answer(sent, "x")

    with FakeServer(behaviour) as server:
        found, _ = ask(server.url, count=40, concurrency=1)
    assert [g.error is None for g in found] == [i < 5 for i in range(40)]


def refuses(n: int, sent: dict[str, Any]) -> Any:
    """A model with the rules of a reasoning model: max_completion_tokens, no temperature, one answer at a time."""
    if "max_tokens" in sent:
        return status(400, param="max_tokens", code="unsupported_parameter", message="Unsupported parameter")
    if sent.get("temperature", 1) != 1:
        return status(400, param="temperature", code="unsupported_value", message="does not support 0.5")
    if sent.get("n", 1) > 1:
        return status(400, message="Only one completion choice is allowed")
    return answer({"n": 1, **sent}, f"x{sent.get('seed')}")


def test_fields_that_a_model_does_not_take() -> None:
    sampling = {"temperature": 0.5, "n": 3, "seed": 5, "max_tokens": 9}
    with FakeServer(refuses) as server:
        ((found,), generator) = ask(server.url, sampling=sampling)
    assert len(set(found.texts)) == 3, "each has a seed of its own"
    assert set(generator.changes) == {"max_tokens", "temperature", "n"}
    assert server.bodies[-1]["max_completion_tokens"] == 9


def test_a_server_that_ignores_n(tmp_path: Path) -> None:
    with FakeServer(lambda n, sent: answer({**sent, "n": 1}, "x")) as server:
        for _ in range(2):
            ((found,), _) = ask(server.url, tmp_path / "j.jsonl", sampling={"temperature": 1.0, "n": 3})
        assert (found.texts, len(server.bodies)) == (("x",) * 3, 3)


def test_request_fields_are_set_and_left_out() -> None:
    with FakeServer(lambda n, sent: answer({"n": 1, **sent})) as server:
        ask(server.url, extra_body={"temperature": None, "max_tokens": 7, "top_k": 5})
    (sent,) = server.bodies
    assert "temperature" not in sent
    assert (sent["max_tokens"], sent["top_k"]) == (7, 5)
    with pytest.raises(ValueError, match="'messages' of a request cannot be changed"):
        OpenAIGenerator("m", "http://127.0.0.1:9/v1", extra_body={"messages": []})


def test_too_few_open_files_are_said_beforehand() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from recipe.critic_r1.judging.openai_client import OpenAIGenerator\n"
        "OpenAIGenerator('m', 'http://127.0.0.1:9/v1', concurrency=500)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--concurrency 500 needs 564 open files, and the limit is 200: take --concurrency 136" in done.stderr


TASK = JudgeTask("p", 0, (), "q", "a", "b", "1", "i")


@pytest.mark.parametrize(
    ("reply", "prefilled", "pred", "reason"),
    [
        (body("A guess \\boxed{1}, but wait", "length"), False, None, "cut_off"),
        (body("A guess \\boxed{1}, but wait", "length"), True, None, "unclosed_think"),
        (body("<think>A guess \\boxed{1}, but", "length"), False, None, "unclosed_think"),
        (body(None, "length", reasoning="Maybe \\boxed{1}"), False, None, "unclosed_think"),
        (body("<think>x</think>\\boxed{1} and so", "length"), False, "1", "ok"),
        (body("Guess \\boxed{2}. No.</think>\\boxed{1}"), True, "1", "ok"),
        (body(None, refusal="no"), False, None, "refused"),
    ],
)
def test_a_verdict_needs_closed_thoughts(reply: Any, prefilled: bool, pred: str | None, reason: str) -> None:
    with FakeServer(lambda n, sent: reply) as server:
        ((found,), _) = ask(server.url)
    judgement = judgement_of(TASK, found, prefilled=prefilled)
    assert (judgement.pred, judgement.reason) == (pred, reason)
