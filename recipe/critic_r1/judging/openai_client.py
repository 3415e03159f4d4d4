"""Any server that speaks the OpenAI chat protocol, with many requests in flight and none lost.

Scale is the server's business: more replicas behind one address look the same from here. The client's business is that
a number at the end can be trusted although things went wrong on the way:

  - what may pass (refused connection, time-out, 408, 409, 429, 5xx, a cut or senseless body) is tried again, with
    growing pauses that follow the server's `Retry-After`;
  - what stays wrong is recorded as a failed request, which is neither a wrong verdict nor an unreadable one;
  - what will be wrong for every request (no such model, no permission) stops the run at once;
  - an answer is written down when it arrives (`Journal`), so that it is never asked for twice;
  - whatever ends a run early (Ctrl-C, a full disk), what is under way is paid for and therefore waited for.

At most `concurrency` requests exist at a time: a request's images are encoded when it is its turn, not before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, TextPart
from recipe.critic_r1.judging.journal import Journal, JournalFullError

LONGEST_PAUSE = 60.0
"""Seconds; also the most that a server's `Retry-After` is followed."""

LONGEST_ERROR = 500
"""Characters of an error message that are kept."""

_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))


class SenselessAnswerError(RuntimeError):
    """The server answered 200 with a body that is no answer."""


class ServerRefusedError(RuntimeError):
    """The server will refuse every request: wrong address, model or key."""


@dataclass(slots=True)
class Traffic:
    """What went over the wire. sent: requests answered or given up; retried: attempts beyond the first of each;
    reused: answered from the journal or by an equal request of the same batch; failed: given up."""

    sent: int = 0
    retried: int = 0
    reused: int = 0
    failed: int = 0


def _errors(workers: Sequence[asyncio.Task[None]]) -> list[BaseException]:
    """What ended workers early. All are asked: an error that nobody takes is printed by asyncio, at any moment."""
    return [error for worker in workers if not worker.cancelled() and (error := worker.exception()) is not None]


class OpenAIGenerator:
    """Answer requests through a chat-completions endpoint. See `Generator`.

    Args:
        model: name under which the server knows the model.
        base_url: address up to and including `/v1`.
        api_key: any text for a server without keys.
        journal: where answers are kept; None keeps nothing.
        concurrency: most requests in flight.
        timeout: seconds for one attempt, from sending to the last byte.
        attempts: tries per request, the first included.
        first_pause: seconds before the second try; pauses double up to LONGEST_PAUSE.
        extra_body: further fields of every request (for vLLM: `chat_template_kwargs`, `mm_processor_kwargs`, ...).
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str = "EMPTY",
        journal: Journal | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        attempts: int = 8,
        first_pause: float = 0.5,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if concurrency < 1 or attempts < 1:
            raise ValueError(f"concurrency ({concurrency}) and attempts ({attempts}) must be at least 1")
        self.model, self.base_url = model, base_url
        self.traffic = Traffic()
        self._api_key, self._timeout = api_key, timeout
        self._journal, self._concurrency = journal, concurrency
        self._extra_body = dict(extra_body or {})
        self._runner: asyncio.Runner | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._stopping = False
        self._attempts = attempts
        self._backoff = wait_exponential_jitter(multiplier=first_pause, max=LONGEST_PAUSE, jitter=first_pause)

    def __enter__(self) -> OpenAIGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._runner is not None:
            if self._client is not None:
                self._runner.run(self._client.close())
            self._runner.close()
        self._runner = self._client = None

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answer all requests, those that are known from the journal. See `Generator.generate`.

        Raises:
            ServerRefusedError: every request would be refused.
            JournalFullError: the disk is full; what had arrived is kept.
            KeyboardInterrupt: Ctrl-C; what was under way has been waited for and kept, unless it was pressed twice.
        """
        # One loop for the object's life, so that connections survive from one batch to the next.
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._client = openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._api_key, timeout=self._timeout, max_retries=0
            )
        return self._runner.run(self._generate(requests))

    async def _generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        answers: dict[str, Generation] = {}
        open_requests: dict[str, GenerationRequest] = {}
        for request in requests:
            known = self._journal.get(self.key(request)) if self._journal else None
            if known is not None:
                answers[request.key] = known
            else:
                open_requests.setdefault(request.key, request)
        self.traffic.reused += len(requests) - len(open_requests)
        queue = iter(open_requests.values())
        self._stopping = False
        workers = [
            asyncio.create_task(self._work(queue, answers)) for _ in range(min(self._concurrency, len(open_requests)))
        ]
        if workers:
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                self._stopping = True
                await asyncio.wait(workers)
            except asyncio.CancelledError:
                self._stopping = True
                self._say_what_is_under_way(workers)
                await asyncio.wait(workers)
                _errors(workers)
                raise
        if errors := _errors(workers):
            raise errors[0]
        if self._journal is not None and self._journal.full:
            raise JournalFullError(
                errno.ENOSPC,
                f"no space left for {self._journal.path}: free some and run again; answers so far are kept",
            )
        return [answers[request.key] for request in requests]

    async def _work(self, queue: Iterator[GenerationRequest], answers: dict[str, Generation]) -> None:
        """Take requests until none is left. Workers share the iterator, so no request is taken twice."""
        while not self._stopping and (request := next(queue, None)) is not None:
            generation = await self._ask(request)
            self.traffic.sent += 1
            self.traffic.failed += generation.error is not None
            answers[request.key] = generation
            if self._journal is not None:
                self._journal.put(self.key(request), generation)
                self._stopping |= self._journal.full

    @staticmethod
    def _say_what_is_under_way(workers: Sequence[asyncio.Task[None]]) -> None:
        waiting = sum(not worker.done() for worker in workers)
        print(
            f"critic-r1: waiting for the {waiting} requests under way, they are paid for; Ctrl-C again drops them",
            file=sys.stderr,
            flush=True,
        )

    def key(self, request: GenerationRequest) -> str:
        """Name of a request in the journal: the request, the model, and the extra fields."""
        content = [request.key, self.model, self._extra_body]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    async def _ask(self, request: GenerationRequest) -> Generation:
        try:
            body = _body(request)
        except ValueError as error:
            return Generation((), error=str(error))
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause,
            retry=retry_if_exception(lambda error: not self._stopping and _may_pass(error)),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    self.traffic.retried += attempt.retry_state.attempt_number > 1
                    # The library's own time-out restarts with every byte; this one bounds the whole attempt.
                    async with asyncio.timeout(self._timeout):
                        assert self._client is not None
                        completion = await self._client.chat.completions.create(
                            model=self.model, extra_body=self._extra_body or None, **body
                        )
                    return _read(completion, request.sampling.n)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ServerRefusedError(
                f"{self.base_url} refuses model {self.model!r} ({_message(error)}): check address, model name and key"
            ) from error
        except (openai.OpenAIError, SenselessAnswerError, ValueError, TimeoutError) as error:
            return Generation((), error=_message(error))
        raise AssertionError("tenacity ends with a result or an exception")

    def _pause(self, state: RetryCallState) -> float:
        """Seconds to wait: what the server asks for when it does, growing pauses otherwise."""
        error = state.outcome.exception() if state.outcome else None
        pause = self._backoff(state)
        if isinstance(error, openai.APIStatusError):
            # A date instead of seconds: the growing pause serves.
            with contextlib.suppress(ValueError):
                pause = max(pause, float(error.response.headers.get("retry-after", "0")))
        return min(pause, LONGEST_PAUSE)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425, 429) or error.status_code >= 500
    # ValueError: a body that is cut off or no JSON.
    return isinstance(
        error,
        openai.APIConnectionError
        | openai.APIResponseValidationError
        | SenselessAnswerError
        | TimeoutError
        | json.JSONDecodeError
        | UnicodeDecodeError,
    )


def _body(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "messages": [{"role": m.role, "content": [_part(p) for p in m.parts]} for m in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "n": sampling.n,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    return body


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    encoded = base64.b64encode(part.data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/{_format(part.data)};base64,{encoded}"}}


def _format(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    raise ValueError(f"an image of {len(data)} bytes is no PNG, JPEG, GIF, BMP or WebP file: convert it first")


def _read(completion: Any, n: int) -> Generation:
    """A generation from a completion, with every field checked: the library passes through what it does not know."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or len(choices) != n:
        raise SenselessAnswerError(f"expected {n} choice(s), got {str(completion)[:200]!r}")
    texts, reasons = [], []
    for choice in choices:
        message = getattr(choice, "message", None)
        text = getattr(message, "content", None)
        # A server that separates the reasoning takes the tags off; verdicts are read with them.
        thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if isinstance(thoughts, str) and thoughts:
            text = f"<think>{thoughts}</think>{text or ''}"
        if not isinstance(text, str):
            raise SenselessAnswerError(f"a choice without text: {str(choice)[:200]!r}")
        texts.append(text)
        reasons.append(str(getattr(choice, "finish_reason", None)))
    usage = getattr(completion, "usage", None)
    return Generation(
        texts=tuple(texts),
        finish_reasons=tuple(reasons),
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
    )


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:LONGEST_ERROR]
