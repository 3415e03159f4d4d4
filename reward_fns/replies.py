"""What a chat-completions body says: its texts, why each of them ended, and what they cost.

A text is the model's answer when the model ended it (`stop`), the token limit did (`length`), or the model refused
(`refusal`). A filter's decision is final, too, but it is not the model's. Anything else, a gateway's error in a body
with status 200 among them, is a failure to answer.

verl, and the environment of lmms-eval, load this file by its path: it imports the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

LONGEST_EXCERPT = 200
"""Characters of a senseless body that a message quotes."""

LARGEST_COUNT = 1e12
"""Tokens; a larger number in `usage` is not a count."""

_REASONS = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "eos_found", "stop_sequence", "end_turn", "complete", "completed"), "stop"
    ),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_length"), "length"),
    **dict.fromkeys(("model_length", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "filtered", "guardrail_intervened", "sensitive"), "filtered"
    ),
    **dict.fromkeys(("safety", "image_safety", "prohibited_content", "blocklist", "recitation", "spii"), "filtered"),
    "refusal": "refusal",
}
"""Finish reasons of servers -> ours."""


class SenselessAnswerError(RuntimeError):
    """The server answered 200 with a body that is not an answer.

    status: the status that the body names for an error of a server further on; 0 when it names none.
    body: the error as that server described it.
    """

    def __init__(self, message: str, status: int = 0, body: Any = None) -> None:
        super().__init__(message)
        self.status, self.body = status, body


class FilteredError(RuntimeError):
    """A content filter of the server withheld the answer."""


class Reply(NamedTuple):
    """The answers in a body, with the fields of `Generation`."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int


def read_reply(body: Any, n: int) -> Reply:
    """The answers in a body; fewer than `n` from a server that gives one at a time.

    Raises:
        SenselessAnswerError: the body is not an answer. FilteredError: a filter withheld one.
    """
    if not isinstance(body, Mapping):
        raise SenselessAnswerError(f"a body that is not an object: {_excerpt(body)}")
    choices = body.get("choices")
    if body.get("error") or (not choices and body.get("object") == "error"):
        raise _error(body.get("error") or body)
    if not isinstance(choices, list) or not 1 <= len(choices) <= n:
        raise SenselessAnswerError(f"expected {n} choice(s), got {_excerpt(body)}")
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    read = [_choice(choice) for choice in choices]
    if usage.get("completion_tokens") == 0 and all(choice == ("", "stop") for choice in read):
        raise SenselessAnswerError("an empty answer of no tokens")
    return Reply(
        texts=tuple(text for text, _ in read),
        finish_reasons=tuple(reason for _, reason in read),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _choice(choice: Any) -> tuple[str, str]:
    """The text of a choice, thoughts in their tags, and why it ended."""
    if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
        raise SenselessAnswerError(f"a choice without a message: {_excerpt(choice)}")
    if choice.get("error"):
        raise _error(choice["error"])
    message = choice["message"]
    reason = _REASONS.get(str(choice.get("finish_reason")).lower())
    if reason is None:
        raise SenselessAnswerError(f"the answer ended with finish_reason {choice.get('finish_reason')!r}")
    if reason == "filtered":
        raise FilteredError("a content filter of the server withheld the answer")
    thoughts, text, refusal = _content(message.get("content"))
    thoughts += _separate_thoughts(message)
    if not text and (refusal or message.get("refusal") or reason == "refusal"):
        return "", "refusal"
    if message.get("content") is None and not thoughts and reason != "length":
        raise SenselessAnswerError(f"a choice without text: {_excerpt(choice)}")
    if thoughts and text:
        text = f"<think>{thoughts}</think>{text}"
    elif thoughts:
        # A server that separates thoughts found no end of them. Either they were cut off, or the model never thought
        # and the server took its whole answer for thoughts.
        text = f"<think>{thoughts}" if reason == "length" else thoughts
    # Lone surrogates, which no UTF-8 file can hold, are escaped.
    return text.encode("utf-8", "backslashreplace").decode("utf-8"), reason


def _separate_thoughts(message: Mapping[str, Any]) -> str:
    """The thoughts beside the content, in the first of the fields that servers give them in."""
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks"):
        found = message.get(name)
        if found and isinstance(found, str | list):
            thoughts, text, _ = _content(found)
            return thoughts + text
    return ""


def _content(content: Any) -> tuple[str, str, str]:
    """Thoughts, text and refusal of a message's content: a text, or a list of typed parts."""
    if content is None or isinstance(content, str):
        return "", content or "", ""
    if not isinstance(content, list):
        raise SenselessAnswerError(f"content that is not text: {_excerpt(content)}")
    found = {"thoughts": "", "text": "", "refusal": ""}
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "output_text") and isinstance(part.get("text"), str):
            found["text"] += part["text"]
        elif kind in ("thinking", "reasoning", "reasoning.text"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text") or ""
            found["thoughts"] += inner if isinstance(inner, str) else "".join(_content(inner)[:2])
        elif kind == "refusal":
            found["refusal"] += str(part.get("refusal") or "refused")
        elif kind not in ("redacted_thinking", "reasoning.encrypted", "reasoning.summary"):
            raise SenselessAnswerError(f"content of an unknown kind: {_excerpt(part)}")
    return found["thoughts"], found["text"], found["refusal"]


def _error(error: Any) -> Exception:
    """What a gateway reports inside a body with status 200."""
    found = error if isinstance(error, Mapping) else {"message": error}
    code, message = found.get("code") or found.get("status"), found.get("message")
    if str(code) == "content_filter":
        return FilteredError(str(message))
    status = int(str(code)) if re.fullmatch("[3-5][0-9]{2}", str(code)) else 0
    said = f"the server reports an error: {str(message)[:LONGEST_EXCERPT]} (code {code})"
    return SenselessAnswerError(said, status, error)


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if 0 < number < LARGEST_COUNT else 0


def _excerpt(value: Any) -> str:
    try:
        return repr(value)[:LONGEST_EXCERPT]
    except RecursionError:
        return f"a {type(value).__name__} of too many levels"
