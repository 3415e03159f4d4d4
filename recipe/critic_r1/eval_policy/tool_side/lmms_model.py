"""lmms-eval with one model more: `critic_r1`, a served model that thinks before it answers.

    ENVIRONMENT/bin/python lmms_model.py --model critic_r1 --model_args settings=FILE.json --tasks ... (as lmms-eval)

It is the tool's own `async_openai` with another client under it. On the way out the client adds the instruction that
the model was trained with; on the way back it keeps the whole response and hands on the final answer, so that every
official metric, whatever it does with a text, sees the answer only. What was answered once is read from the journal and
not asked again. Images, prompts, generation settings, retries and scoring stay the tool's.

Runs in the environment of lmms-eval: nothing of ours is imported but final_answer.py, which stands beside it.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from final_answer import final_answer  # type: ignore[import-not-found]

KEY_VARIABLE = "CRITIC_R1_API_KEY"
"""The served model's key. OPENAI_API_KEY is left to the judges that some tasks call."""

_asked: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("asked", default=("", ""))
"""Task and document of the request under way."""


class Journal:
    """Raw answers by what was asked, appended as they come; a line that a kill cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            self._known[record["key"]] = record
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def add(self, record: dict[str, Any]) -> None:
        self._known[record["key"]] = record
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")
        self._file.flush()


class FinalAnswers:
    """Stands for `client.chat.completions`.

    Args:
        completions: what answers in the end, with the method `create`.
        suffix: added behind the last text of the last message; empty for none.
        prefilled: see `final_answer`.
    """

    def __init__(self, completions: Any, journal: Journal, *, suffix: str = "", prefilled: bool = False) -> None:
        self._completions, self._journal = completions, journal
        self._suffix, self._prefilled = suffix, prefilled
        self._times: Counter[str] = Counter()

    async def create(self, **payload: Any) -> Any:
        """As the OpenAI method; the content of the first choice is the final answer."""
        if self._suffix:
            payload["messages"] = with_suffix(payload["messages"], self._suffix)
        asked = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        key = f"{asked}-{self._times[asked]}"  # the same prompt several times: several samples
        self._times[asked] += 1
        record = self._journal.get(key)
        if record is None:
            response = await self._completions.create(**payload)
            task, document = _asked.get()
            record = {"key": key, "task": task, "doc": document, "response": response.model_dump(mode="json")}
            self._journal.add(record)
        else:
            from openai.types.chat import ChatCompletion

            response = ChatCompletion.model_validate(record["response"])
        choice = response.choices[0]
        choice.message.content, _ = final_answer(choice.message.content or "", prefilled=self._prefilled)
        return response


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
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat  # type: ignore[import-not-found]

    class CriticR1(AsyncOpenAIChat):
        is_simple = False

        def __init__(self, settings: str, **given: Any) -> None:
            chosen = json.loads(Path(settings).read_text(encoding="utf-8"))
            # batch_size, device: the tool gives them to every model, and this one has no use for them.
            super().__init__(**chosen["model_args"], api_key=os.environ.get(KEY_VARIABLE, "EMPTY"))
            self.client: Any = _Client(
                FinalAnswers(
                    self.client.chat.completions,
                    Journal(Path(chosen["journal"])),
                    suffix=chosen["suffix"],
                    prefilled=chosen["prefilled"],
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
