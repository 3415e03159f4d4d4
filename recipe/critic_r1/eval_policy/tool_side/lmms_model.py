"""lmms-eval with one more model: `critic_r1`, a served model that thinks before it answers.

    ENVIRONMENT/bin/python lmms_model.py --model critic_r1 --model_args settings=FILE.json --tasks ... (as lmms-eval)

It is the tool's own `async_openai` with another client under it. On the way out the client adds the instruction that
the model was trained with; on the way back it keeps the whole response and hands on the final answer, so that every
official metric, whatever it does with a text, sees the answer only. What was answered once is read from the journal and
not asked again. Images, prompts, generation settings, retries and scoring stay the tool's.

Runs in the environment of lmms-eval: of this project it loads only files that import the standard library alone.
"""

from __future__ import annotations

import contextvars
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from final_answer import ROOT, final_answer, load  # type: ignore[import-not-found]

_replies = load(ROOT / "reward_fns" / "replies.py")

KEY_VARIABLE = "CRITIC_R1_API_KEY"
"""The served model's key. OPENAI_API_KEY is left to the judges that some tasks call."""

URL_VARIABLE = "CRITIC_R1_BASE_URL"
"""The served model's address, which may hold a password."""

CHANGES_VARIABLE = "CRITIC_R1_CHANGES"
"""Fields of a request that the server does not take, as JSON: `OpenAIGenerator.changes`."""

FORMAT = 2
"""Of the journal's records. Older ones may hold errors of gateways as answers, and are asked again."""

_asked: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("asked", default=("", ""))
"""Task and document of the request under way."""


class Journal:
    """Raw answers by what was asked, appended as they come; a line that a kill cut off is dropped.

    Raises:
        OSError: the path is a symbolic link, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self._file = open(descriptor, "a+", encoding="utf-8")  # noqa: SIM115
        self._file.seek(0)
        text = self._file.read()
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _whole(record):
                self._known[record["key"]] = record
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def add(self, record: dict[str, Any]) -> None:
        self._known[record["key"]] = record
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")
        self._file.flush()


def _whole(record: Any) -> bool:
    """Whether a line of the journal is an answer that can be read."""
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("key"), str):
        return False
    try:
        read(record["response"])
    except (_replies.SenselessAnswerError, _replies.FilteredError, KeyError, TypeError, AttributeError):
        return False
    return True


class FinalAnswers:
    """Stands for `client.chat.completions`.

    Args:
        completions: what answers in the end, with the method `create`.
        suffix: added after the last text of the last message; empty for none.
        prefilled: see `final_answer`.
        changes: fields that the server does not take; `max_tokens` has another name there, others are left out.
    """

    def __init__(
        self,
        completions: Any,
        journal: Journal,
        *,
        suffix: str = "",
        prefilled: bool = False,
        changes: Iterable[str] = (),
    ) -> None:
        self._completions, self._journal, self._changes = completions, journal, tuple(changes)
        self._suffix, self._prefilled = suffix, prefilled
        self._taken: dict[str, set[int]] = {}

    async def create(self, **payload: Any) -> Any:
        """As the OpenAI method; the content of the first choice is the final answer.

        Raises:
            RuntimeError: the server answered 200 with a body that is not an answer. The tool tries again.
        """
        if self._suffix:
            payload["messages"] = with_suffix(payload["messages"], self._suffix)
        asked = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        # The same prompt several times is several samples; an attempt that failed is not one.
        taken = self._taken.setdefault(asked, set())
        number = next(n for n in itertools.count() if n not in taken)
        taken.add(number)
        try:
            return await self._answer(f"{asked}-{number}", payload)
        except BaseException:
            taken.discard(number)
            raise

    async def _answer(self, key: str, payload: dict[str, Any]) -> Any:
        from openai.types.chat import ChatCompletion

        record = self._journal.get(key)
        if record is None:
            for name in self._changes:
                value = payload.pop(name, None)
                if name == "max_tokens" and value is not None and "max_completion_tokens" not in self._changes:
                    payload["max_completion_tokens"] = value
            response = await self._completions.create(**payload)
            if not isinstance(response, ChatCompletion):
                raise RuntimeError(f"the server's answer is not a chat completion: {str(response)[:200]}")
            body = response.model_dump(mode="json", warnings=False)
            text, reason = read(body)
            task, document = _asked.get()
            record = {"format": FORMAT, "key": key, "task": task, "doc": document, "response": body}
            self._journal.add(record)
        else:
            response = ChatCompletion.model_validate(record["response"])
            text, reason = read(record["response"])
        message = response.choices[0].message
        message.content, _ = final_answer(text, prefilled=self._prefilled, finished=reason != "length")
        return response


def read(body: dict[str, Any]) -> tuple[str, str]:
    """The first text of a body and why it ended; empty and `filtered` where a filter withheld it.

    Raises:
        RuntimeError: the body is not an answer.
    """
    try:
        reply = _replies.read_reply(body, sys.maxsize)
    except _replies.FilteredError:
        if not body.get("choices"):
            raise
        return "", "filtered"
    return reply.texts[0], reply.finish_reasons[0]


def with_suffix(messages: list[dict[str, Any]], suffix: str) -> list[dict[str, Any]]:
    """The messages with `suffix` as a last paragraph of the last one; the given ones are not changed."""
    last = messages[-1]
    content = last["content"]
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": f"{content}\n\n{suffix}"}]
    texts = [i for i, part in enumerate(content) if part.get("type") == "text"]
    if texts and texts[-1] == len(content) - 1:
        part = {**content[-1], "text": f"{content[-1]['text']}\n\n{suffix}"}
        return [*messages[:-1], {**last, "content": [*content[:-1], part]}]
    return [*messages[:-1], {**last, "content": [*content, {"type": "text", "text": suffix}]}]


class _Client:
    """As much of an OpenAI client as the tool's model uses."""

    def __init__(self, completions: FinalAnswers) -> None:
        self.completions = completions
        self.chat = self


def model_class() -> type:
    """The model, a subclass of the tool's; made in a function because the tool is imported late."""
    import openai
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat  # type: ignore[import-not-found]

    class CriticR1(AsyncOpenAIChat):  # type: ignore[misc]
        is_simple = False

        def __init__(self, settings: str, **given: Any) -> None:
            chosen = json.loads(Path(settings).read_text(encoding="utf-8"))
            # batch_size, device: the tool gives them to every model, and this one does not need them.
            arguments = dict(chosen["model_args"])
            arguments["base_url"] = os.environ.get(URL_VARIABLE) or arguments["base_url"]
            super().__init__(**arguments, api_key=os.environ.get(KEY_VARIABLE, "EMPTY"))
            # A redirect would take the prompt and its images to another host.
            direct = self.client.with_options(http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False))
            self.client: Any = _Client(
                FinalAnswers(
                    direct.chat.completions,
                    Journal(Path(chosen["journal"])),
                    suffix=chosen["suffix"],
                    prefilled=chosen["prefilled"],
                    changes=json.loads(os.environ.get(CHANGES_VARIABLE) or "[]"),
                )
            )

        async def maybe_forward_with_tool(self, request: Any, idx: int) -> Any:
            _asked.set((str(request.args[4]), str(request.args[3])))
            return await super().maybe_forward_with_tool(request, idx)

    CriticR1.__module__, CriticR1.__qualname__ = __name__, "CriticR1"
    return CriticR1


def __getattr__(name: str) -> Any:
    if name == "CriticR1":
        return model_class()
    raise AttributeError(name)


def main() -> None:
    """Register the model, then be lmms-eval."""
    from lmms_eval.models import MODEL_REGISTRY_V2  # type: ignore[import-not-found]
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    MODEL_REGISTRY_V2.register_manifest(ModelManifest("critic_r1", chat_class_path="lmms_model.CriticR1"))
    from lmms_eval.cli.dispatch import main as lmms_eval  # type: ignore[import-not-found]

    sys.argv[0] = "lmms-eval"
    lmms_eval()


if __name__ == "__main__":
    main()
