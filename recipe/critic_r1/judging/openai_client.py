"""A client for servers with the OpenAI chat protocol, with many requests in flight and none lost.

  - Transient failures (a refused connection, a timeout, 408, 409, 429, 5xx, a truncated or malformed body) are retried
    with exponential backoff that honours `Retry-After`.
  - Persistent ones are recorded as failed requests, which are neither wrong nor unreadable verdicts.
  - A failure that all the first requests have and that will not pass (a wrong model, key or address, no quota) stops
    the run.
  - Fields that a model rejects are renamed or left out after its first refusal, and reported in `changes`.
  - Each answer is saved when it arrives (`Journal`), so that it is requested once.
  - When a run ends early (Ctrl-C, a full disk), it waits for the requests in flight, since they are paid for.

At most `concurrency` requests exist at a time: the images of a request are encoded when it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from recipe.critic_r1.judging.address import Address, open_files_for
from recipe.critic_r1.judging.failures import RequestFailure, explain, unsupported_field
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, TextPart
from recipe.critic_r1.judging.journal import Journal, JournalFullError
from recipe.critic_r1.redaction import redact
from reward_fns.chat_judge import data_url
from reward_fns.replies import SenselessAnswerError, read_reply

T = TypeVar("T")

LONGEST_PAUSE = 60.0
"""Seconds; also the limit for `Retry-After`."""

LONGEST_ERROR = 500
"""Characters of an error message that are kept."""

FIRST_REQUESTS = 8
"""Consecutive failures for one lasting reason that stop a run; fewer when there are fewer first requests."""

MOST_CHANGES = 6
"""Most fields that are renamed or left out for one server."""

KEY_VERSION = 2
"""Increased when answers in older journals would be read differently."""

FIXED_FIELDS = ("model", "messages", "stream")
"""Fields of a request that the user cannot set."""


class ServerRefusedError(RuntimeError):
    """The server will refuse every request: wrong address, model or key, no quota, an unsupported field."""


class _ServerError(RuntimeError):
    """Carries a `RequestFailure` through the retries."""

    def __init__(self, failure: RequestFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(slots=True)
class Traffic:
    """Counts of requests. sent: answered or given up; retried: attempts beyond the first of each; reused: answered from
    the journal or by an equal request of the same batch; failed: given up."""

    sent: int = 0
    retried: int = 0
    reused: int = 0
    failed: int = 0


def _errors(workers: Sequence[asyncio.Task[None]]) -> list[BaseException]:
    """The errors of workers; asyncio would print one that is not retrieved."""
    return [error for worker in workers if not worker.cancelled() and (error := worker.exception()) is not None]


def _outside_a_loop(work: Callable[[], T]) -> T:
    """Call `work`, which runs an event loop; in a thread when the caller is inside another loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class OpenAIGenerator:
    """A `Generator` for a chat-completions endpoint.

    Args:
        model: the server's name of the model.
        base_url: address up to and including `/v1`.
        api_key: any text for a server without keys.
        journal: where answers are saved; None saves nothing.
        concurrency: most requests in flight.
        timeout: seconds for one attempt, from sending to the last byte.
        attempts: attempts per request, the first included.
        first_pause: seconds before the second attempt; pauses double up to LONGEST_PAUSE.
        extra_body: further fields of every request (for vLLM: `chat_template_kwargs`, `mm_processor_kwargs`, ...). They
            override our fields; None leaves a field out.

    Raises:
        ValueError: a setting or the address is invalid, or the process may not open enough files.
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
        if not 0 < timeout < math.inf:
            raise ValueError(f"--timeout {timeout} is not a number of seconds above 0")
        if fixed := sorted(set(extra_body or ()) & set(FIXED_FIELDS)):
            raise ValueError(f"the field {fixed[0]!r} of a request cannot be changed")
        try:
            f"{model}{extra_body}".encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the model's name or a field of --request is not valid Unicode ({error.reason})"
            ) from None
        self.model, self.address = model, Address(base_url)
        self.traffic = Traffic()
        self.errors: Counter[str] = Counter()
        """Messages of failed requests."""
        self.changes: dict[str, str] = {}
        """Rejected fields -> what was done instead."""
        self._api_key, self._timeout = api_key, timeout
        self._journal, self._concurrency = journal, concurrency
        open_files_for(concurrency)
        self._extra_body = dict(extra_body or {})
        self._runner: asyncio.Runner | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._stopping = False
        self._attempts = attempts
        self._backoff = wait_exponential_jitter(multiplier=first_pause, max=LONGEST_PAUSE, jitter=first_pause)
        self._in_a_row: Counter[str] = Counter()
        self._answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        runner, client = self._runner, self._client
        self._runner = self._client = None
        if runner is not None:
            if client is not None:
                _outside_a_loop(lambda: runner.run(client.close()))
            _outside_a_loop(runner.close)

    def stop(self) -> None:
        """Send no new request; those in flight are still awaited. May be called from another thread."""
        self._stopping = True

    def facts(self) -> dict[str, Any]:
        """For result files: the most frequent `errors` with their counts, and `changes`."""
        return {"errors": dict(self.errors.most_common(5)), "changes": dict(self.changes)}

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answer all requests, from the journal if possible. See `Generator.generate`.

        Raises:
            ServerRefusedError: every request would be refused.
            JournalFullError: the disk is full; answers that arrived are saved.
            KeyboardInterrupt: Ctrl-C; the requests in flight were awaited and saved, unless it was pressed twice.
        """
        # One loop for the object's lifetime, so that connections are kept between batches.
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._client = self.address.client(self._api_key, self._timeout)
        runner = self._runner
        return _outside_a_loop(lambda: runner.run(self._generate(requests)))

    async def _generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        answers: dict[str, Generation] = {}
        open_requests: dict[str, GenerationRequest] = {}
        for request in requests:
            known = self._known(self.key(request), request.sampling.n)
            if known is not None:
                answers[request.key] = known
            else:
                open_requests.setdefault(request.key, request)
        self.traffic.reused += len(requests) - len(open_requests)
        queue = iter(open_requests.values())
        self._stopping = False
        self._in_a_row.clear()
        # After an answer, now or in an earlier run, a single failure says nothing about other requests.
        self._answered |= bool(answers)
        few = FIRST_REQUESTS if self._answered else min(self._concurrency, len(open_requests), FIRST_REQUESTS)
        workers = [
            asyncio.create_task(self._work(queue, answers, few))
            for _ in range(min(self._concurrency, len(open_requests)))
        ]
        if workers:
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                self._stopping = True
                await asyncio.wait(workers)
            except asyncio.CancelledError:
                self._stopping = True
                waiting = sum(not worker.done() for worker in workers)
                print(
                    f"critic-r1: waiting for {waiting} requests in flight, since they are paid for; Ctrl-C again drops "
                    "them",
                    file=sys.stderr,
                    flush=True,
                )
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

    async def _work(self, queue: Iterator[GenerationRequest], answers: dict[str, Generation], most: int) -> None:
        """Answer requests from an iterator that the workers share.

        Args:
            most: consecutive failures for one lasting reason that stop the run.
        """
        while not self._stopping and (request := next(queue, None)) is not None:
            failure: RequestFailure | None = None
            try:
                generation = await self._ask(request)
                self._in_a_row.clear()
                self._answered = True
            except _ServerError as error:
                failure = error.failure
                generation = Generation((), error=failure.message, failure=failure.kind)
                self.errors[failure.message] += 1
            self.traffic.sent += 1
            self.traffic.failed += failure is not None
            answers[request.key] = generation
            self._keep(self.key(request), generation)
            if failure is not None and failure.lasting and not (failure.doubtful and self._answered):
                self._in_a_row[failure.lasting] += 1
                if self._in_a_row[failure.lasting] >= most:
                    raise ServerRefusedError(
                        f"{self.address.shown} refuses model {self.model!r} ({failure.message}): {failure.remedy}"
                    )

    def _known(self, key: str, n: int) -> Generation | None:
        """The final answer in the journal, if it has `n` texts."""
        known = self._journal.get(key) if self._journal else None
        return known if known is None or known.error or len(known.texts) == n else None

    def _keep(self, key: str, generation: Generation) -> None:
        if self._journal is not None:
            self._journal.put(key, generation)
            self._stopping |= self._journal.full

    def key(self, request: GenerationRequest) -> str:
        """Key of a request in the journal, from the request, the model and the extra fields."""
        content = [KEY_VERSION, request.key, self.model, self._extra_body]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    async def _ask(self, request: GenerationRequest) -> Generation:
        """The answer to a request, with the fields and the number of answers at a time that the server supports."""
        wanted = request.sampling.n
        for _ in range(MOST_CHANGES):
            known = dict(self.changes)
            if wanted > 1 and ("n" in self.changes or "n" in self._extra_body):
                return await self._one_by_one(request, None)
            try:
                generation = await self._try(request)
            except openai.APIStatusError as error:
                field = unsupported_field(error)
                if field is not None and field not in self._extra_body:
                    self._leave_out(field)
                if self.changes == known:
                    raise _ServerError(self._failure(error)) from error
                continue
            if len(generation.texts) == wanted:
                return generation
            self.changes["n"] = "asked one by one: the server gives fewer answers than asked for"
            return await self._one_by_one(request, generation)
        raise _ServerError(RequestFailure("the server rejects the fields of the request"))

    def _leave_out(self, field: str) -> None:
        if field == "max_tokens":
            self.changes[field] = "max_completion_tokens"
        elif field == "n":
            self.changes[field] = "asked one by one: the server refuses more than one answer"
        else:
            self.changes[field] = "left out: the server does not support it"

    async def _one_by_one(self, request: GenerationRequest, first: Generation | None) -> Generation:
        """Several answers, each requested and saved by itself.

        Args:
            first: answers that the server already gave.
        """
        parts = [first] if first is not None else []
        for number in range(len(first.texts) if first else 0, request.sampling.n):
            single = replace(request.sampling, n=1)
            # With the same seed all answers would be the same.
            part = GenerationRequest(request.messages, single.for_request("answer", str(number)) if number else single)
            key = f"{self.key(request)}/{number}"
            known = self._known(key, 1)
            if known is None:
                known = await self._ask(part)
                self._keep(key, known)
            if known.error is not None:
                return known
            parts.append(known)
        return Generation(
            texts=tuple(text for part in parts for text in part.texts),
            finish_reasons=tuple(reason for part in parts for reason in part.finish_reasons),
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
        )

    async def _try(self, request: GenerationRequest) -> Generation:
        """Send a request until there is an answer or no attempt is left.

        Raises:
            openai.APIStatusError: the server rejects a field. _ServerError: any other failure.
        """
        try:
            body = self._body(request)
        except ValueError as error:
            raise _ServerError(RequestFailure(str(error), "rejected")) from error
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause,
            retry=retry_if_exception(lambda error: not self._stopping and self._again(error)),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    self.traffic.retried += attempt.retry_state.attempt_number > 1
                    # The library's own timeout restarts with every byte; this one limits the attempt.
                    async with asyncio.timeout(self._timeout):
                        received = await self._post(body)
                    return Generation(*read_reply(_json(received), body.get("n") or 1))
        except Exception as error:
            if unsupported_field(error) is not None:
                raise
            raise _ServerError(self._failure(error)) from error
        raise AssertionError("tenacity ends with a result or an exception")

    async def _post(self, body: dict[str, Any]) -> bytes:
        """The body of the response; `Address.client` limits its size."""
        assert self._client is not None
        fields = {name: value for name, value in body.items() if name != "messages"}
        async with self._client.chat.completions.with_streaming_response.create(
            model=self.model, messages=body["messages"], extra_body=fields
        ) as response:
            return await response.read()

    def _again(self, error: BaseException) -> bool:
        """Whether another attempt may help. A host that no request could reach is not tried again."""
        failure = explain(error)
        return failure.again and (failure.lasting != "no route" or bool(self.traffic.sent - self.traffic.failed))

    def _failure(self, error: BaseException) -> RequestFailure:
        """What an error means, without secrets and with the proxy in use."""
        failure = explain(error)
        text = redact(failure.message, self._api_key, *self.address.secrets)[:LONGEST_ERROR]
        if self.address.proxy and failure.kind == "failed":
            text += f" (through the proxy {self.address.proxy}; NO_PROXY={self.address.host} bypasses it)"
        return replace(failure, message=text)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds to wait: exponential backoff, or what the server asks for if that is longer."""
        error = state.outcome.exception() if state.outcome else None
        pause = self._backoff(state)
        if isinstance(error, openai.APIStatusError):
            # A date instead of seconds is ignored.
            with contextlib.suppress(ValueError):
                pause = max(pause, float(error.response.headers.get("retry-after", "0")))
        return min(pause, LONGEST_PAUSE)

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        """The fields of a request, without the model, as this server supports them."""
        sampling = request.sampling
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "n": sampling.n,
            "seed": sampling.seed,
        }
        for name in self.changes:
            value = fields.pop(name, None)
            if name == "max_tokens" and "max_completion_tokens" not in self.changes:
                fields["max_completion_tokens"] = value
        fields |= self._extra_body
        messages = [{"role": m.role, "content": [_part(p) for p in m.parts]} for m in request.messages]
        return {"messages": messages, **{name: value for name, value in fields.items() if value is not None}}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SenselessAnswerError(f"a body that is not JSON: {body[:200]!r}") from error


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": data_url(part.data)}}
