"""The client under the tool's model: the instruction goes out, the final answer comes back, nothing is asked twice."""

import asyncio
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from recipe.critic_r1.eval_policy import results

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


class Server:
    """Answers with its texts, one after another."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.payloads: list[dict[str, Any]] = []

    async def create(self, **payload: Any) -> ChatCompletion:
        self.payloads.append(payload)
        return ChatCompletion.model_validate(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": payload["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": self.texts.pop(0)},
                    }
                ],
                "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
            }
        )


def ask(answers: Any, question: str) -> str:
    messages = [{"role": "user", "content": [IMAGE, {"type": "text", "text": question}]}]
    response = asyncio.run(answers.create(model="m", messages=messages, temperature=0))
    content: str = response.choices[0].message.content
    return content


def test_the_tool_gets_the_answer_and_the_journal_the_response(lmms_model: ModuleType, tmp_path: Path) -> None:
    server = Server("<think>Round.</think>\\boxed{6}")
    journal = lmms_model.Journal(tmp_path / "answers.jsonl")
    assert ask(lmms_model.FinalAnswers(server, journal, suffix="Think."), "Which digit?") == "6"
    assert server.payloads[0]["messages"][0]["content"] == [IMAGE, {"type": "text", "text": "Which digit?\n\nThink."}]
    assert "<think>Round.</think>" in (tmp_path / "answers.jsonl").read_text()


def test_what_was_answered_is_not_asked_again(lmms_model: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = Server("<think>x</think>\\boxed{6}", "<think>x</think>\\boxed{7}")
    answers = lmms_model.FinalAnswers(first, lmms_model.Journal(path))
    assert [ask(answers, "one"), ask(answers, "two")] == ["6", "7"]
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote the second

    second = Server("<think>x</think>\\boxed{8}")
    answers = lmms_model.FinalAnswers(second, lmms_model.Journal(path))
    assert [ask(answers, "one"), ask(answers, "two")] == ["6", "8"]
    assert len(second.payloads) == 1

    answers = lmms_model.FinalAnswers(Server(), lmms_model.Journal(path))
    assert [ask(answers, "one"), ask(answers, "two")] == ["6", "8"]


def test_one_prompt_asked_twice_is_two_samples(lmms_model: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for server in (Server("\\boxed{1}", "\\boxed{2}"), Server()):
        answers = lmms_model.FinalAnswers(server, lmms_model.Journal(path))
        assert [ask(answers, "same"), ask(answers, "same")] == ["1", "2"]


def test_another_instruction_is_another_question(lmms_model: ModuleType, tmp_path: Path) -> None:
    journal = lmms_model.Journal(tmp_path / "answers.jsonl")
    assert ask(lmms_model.FinalAnswers(Server("\\boxed{1}"), journal), "q") == "1"
    assert ask(lmms_model.FinalAnswers(Server("\\boxed{2}"), journal, suffix="Think."), "q") == "2"


FOREIGN = [
    "null", "[1]", "{cut", "[" * 100_000, '{"format": 2}', '{"format": 2, "key": 5, "response": {}}',
    '{"format": 2, "key": "KEY"}', '{"format": 2, "key": "KEY", "response": []}',
    '{"format": 2, "key": "KEY", "response": {"choices": []}}',
    '{"format": 2, "key": "KEY", "response": {"error": {"code": 429, "message": "limit"}}}',
    '{"format": 1, "key": "KEY", "response": {"choices": [{"finish_reason": "stop", "message": {"content": "5"}}]}}',
    '{"format": 2, "key": "KEY", "response": {"choices": [{"finish_reason": "error", "message": {"content": ""}}]}}',
]  # fmt: skip


@pytest.mark.parametrize("line", FOREIGN)
def test_a_line_that_is_no_answer_is_asked_again(lmms_model: ModuleType, tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    journal = lmms_model.Journal(path)
    ask(lmms_model.FinalAnswers(Server("\\boxed{6}"), journal), "q")
    (record,) = map(json.loads, path.read_text().splitlines())
    path.write_text(line.replace("KEY", record["key"]) + "\n")
    answers = lmms_model.FinalAnswers(Server("\\boxed{8}"), lmms_model.Journal(path))
    assert ask(answers, "q") == "8"
    assert results.reading(path).responses == 1


def test_a_journal_that_is_a_link_is_not_followed(lmms_model: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        lmms_model.Journal(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_fields_that_the_server_does_not_take_are_renamed_or_left_out(lmms_model: ModuleType, tmp_path: Path) -> None:
    server = Server("\\boxed{6}")
    journal = lmms_model.Journal(tmp_path / "answers.jsonl")
    answers = lmms_model.FinalAnswers(server, journal, changes=["max_tokens", "temperature"])
    message = {"role": "user", "content": "q"}
    asyncio.run(answers.create(model="m", messages=[message], temperature=0, max_tokens=9))
    assert server.payloads == [{"model": "m", "messages": [message], "max_completion_tokens": 9}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Q", "Q\n\nS"),
        ([IMAGE], [IMAGE, {"type": "text", "text": "S"}]),
        # An image last: the instruction still comes last.
        (
            [{"type": "text", "text": "Q"}, IMAGE],
            [{"type": "text", "text": "Q"}, IMAGE, {"type": "text", "text": "S"}],
        ),
    ],
)
def test_the_instruction_comes_last(lmms_model: ModuleType, content: Any, expected: Any) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": content}]
    assert lmms_model.with_suffix(messages, "S") == [system, {"role": "user", "content": expected}]
    assert messages[-1]["content"] == content
