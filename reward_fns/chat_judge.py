"""A critic on any server that speaks the OpenAI chat protocol, asked to compare two responses or to score one.

`ChatJudge` holds the connection and its limits; `ChatJudge.about` gives the `group.Judge` for one question, with its
images encoded once. What the critic wrote is always a verdict or an unreadable one, also when it was cut off, filtered
or refused; a request that got no such answer is tried again, and then raises `JudgeFailedError`.

The openai package, and the prompt templates of `data_prep`, are imported at the first question.
"""

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING or __package__:
    from reward_fns.group import JudgeFailedError
    from reward_fns.pointwise import SCALE, read_score
    from reward_fns.replies import FilteredError, Reply, SenselessAnswerError, read_reply
    from reward_fns.verdict import Parsing, find_box, parse_verdict
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    JudgeFailedError = _sibling("group").JudgeFailedError
    _pointwise, _replies, _verdict = _sibling("pointwise"), _sibling("replies"), _sibling("verdict")
    SCALE, read_score = _pointwise.SCALE, _pointwise.read_score
    FilteredError, SenselessAnswerError = _replies.FilteredError, _replies.SenselessAnswerError
    Reply, read_reply = _replies.Reply, _replies.read_reply
    Parsing, find_box, parse_verdict = _verdict.Parsing, _verdict.find_box, _verdict.parse_verdict

LONGEST_PAUSE = 30.0
"""Seconds between two attempts, whatever the server's `Retry-After` says."""

PASSING = (408, 409, 425, 429)
"""Statuses below 500 that are worth another attempt."""

_TYPES = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))


def data_url(image: Any) -> str:
    """An image as a data URL: the bytes of a PNG, JPEG, GIF, BMP or WebP file unchanged, a `PIL.Image` as PNG.

    Raises:
        ValueError: anything else.
    """
    if hasattr(image, "save"):
        file = io.BytesIO()
        image.save(file, format="PNG")
        image = file.getvalue()
    if not isinstance(image, bytes):
        raise ValueError(f"an image must be a file's bytes or a PIL.Image, not {type(image).__name__}")
    kind = "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else None
    kind = kind or next((name for magic, name in _TYPES if image.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"an image of {len(image)} bytes is not a PNG, JPEG, GIF, BMP or WebP file: convert it")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


_BROKEN_BODY = (LookupError, ValueError, TypeError, AttributeError)
"""What reading an answer of another form than the protocol's raises."""


class ChatJudge:
    """A critic on a server.

    Use it within one event loop, and close it there: `async with ChatJudge(...) as critic`.

    Args:
        url: address up to and including `/v1`.
        model: the name under which the server knows the critic; None for the first one that it lists.
        template: prompt template of a comparison, a name of `data_prep.tasks.prompts.TEMPLATES`.
        ties: whether the prompt of a comparison offers a tie.
        parsing: how verdicts are read; `lenient` for a critic that was not trained on the form. A score is always read
            from a box.
        max_tokens: longest answer.
        temperature: 0 is greedy.
        timeout: seconds for one attempt, to the last byte.
        attempts: tries for one answer, the first included.
        first_pause: seconds before the second try; pauses double up to LONGEST_PAUSE.
        concurrency: most requests in flight.
        api_key: any text for a server without keys.
        direct: reach the server without the proxy of the environment, as one on this machine always is.
        extra_body: further fields of each request, such as vLLM's `chat_template_kwargs`.

    Raises:
        ValueError: a limit that is not positive, or no address or model.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        template: str = "critic",
        ties: bool = False,
        parsing: Parsing = "strict",
        max_tokens: int = 1024,
        temperature: float = 0.0,
        timeout: float = 120.0,
        attempts: int = 4,
        first_pause: float = 0.5,
        concurrency: int = 64,
        api_key: str = "EMPTY",
        direct: bool = False,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not url or model == "":
            raise ValueError("a critic needs the url of its server and the name of its model")
        if min(max_tokens, timeout, attempts, concurrency) <= 0 or min(first_pause, temperature) < 0:
            raise ValueError("max_tokens, timeout, attempts and concurrency must be positive, pauses not negative")
        self.url, self.model = url, model
        self._template, self._ties, self._parsing = template, ties, parsing
        self._timeout, self._attempts, self._first_pause = timeout, attempts, first_pause
        self._concurrency, self._api_key = concurrency, api_key
        self._direct = direct or _is_here(url)
        self._fixed = {"max_tokens": max_tokens, "temperature": temperature, "n": 1}
        self._extra_body = dict(extra_body or {}) or None
        self._client: Any = None

    async def __aenter__(self) -> "ChatJudge":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def about(self, question: str, images: Iterable[Any] = ()) -> "QuestionJudge":
        """The judge of the responses to one question.

        Args:
            images: in the order in which the prompt shows them, as `data_url` takes them.

        Raises:
            ValueError: an image that cannot be sent, or an unknown template.
        """
        return QuestionJudge(self, question, [data_url(image) for image in images])

    async def reply(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        """The model's one answer to a chat, and its tokens; an empty text where a filter withheld it.

        Raises:
            JudgeFailedError: no answer after all attempts, or a status that another attempt will not change.
        """
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=self._api_key,
                timeout=self._timeout,
                max_retries=0,
                http_client=_bounded_client(self._direct),
            )
            self._client.organization = self._client.project = None  # of the environment, and not meant for a critic
            self._slots = asyncio.Semaphore(self._concurrency)
        for attempt in range(1, self._attempts + 1):
            try:
                # The library's own time-out starts again with each byte; this one bounds the attempt.
                async with self._slots, asyncio.timeout(self._timeout):
                    if self.model is None:
                        self.model = (await self._client.models.list()).data[0].id
                    reply = await self._client.chat.completions.create(
                        model=self.model,
                        messages=list(messages),
                        extra_body=self._extra_body,
                        **self._fixed,
                    )
                return _read(reply)
            except (openai.OpenAIError, TimeoutError, SenselessAnswerError, *_BROKEN_BODY) as error:
                status = getattr(error, "status_code", None)
                final = isinstance(status, int) and status < 500 and status not in PASSING
                if final or attempt == self._attempts:
                    # The library says "Connection error" of all that goes wrong on the way, and keeps the cause.
                    told = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
                    words = " ".join(str(told or error).replace(self._api_key, "<key>").split()) or "no message"
                    raise JudgeFailedError(f"{type(error).__name__}: {words}"[:300]) from error
                await asyncio.sleep(self._pause(error, attempt))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, error: BaseException, attempt: int) -> float:
        pause = self._first_pause * 2.0 ** (attempt - 1)
        headers = getattr(getattr(error, "response", None), "headers", {})
        with contextlib.suppress(ValueError):  # a date
            pause = max(pause, float(headers.get("retry-after", 0)))
        return min(pause, LONGEST_PAUSE)


def _read(reply: Any) -> Reply:
    """Raises SenselessAnswerError, or AttributeError, for a body that is not an answer."""
    try:
        return read_reply(reply.model_dump(mode="json", warnings=False), 1)
    except FilteredError:
        return Reply(("",), ("filtered",), 0, 0)


def _bounded_client(direct: bool) -> Any:
    if TYPE_CHECKING or __package__:
        from reward_fns.bounded_http import bounded_client
    else:
        bounded_client = _sibling("bounded_http").bounded_client
    return bounded_client(direct)


def _is_here(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


class QuestionJudge:
    """Judges responses to one question and counts its tokens: a `group.Judge`, and with `score` a `group.Scorer`."""

    def __init__(self, critic: ChatJudge, question: str, images: Sequence[str]) -> None:
        from data_prep.tasks.prompts import MARKER, get_template

        self._critic, self._question = critic, question
        self._marker, self._template = MARKER, get_template(critic._template)
        self._images = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __call__(self, first: str, second: str) -> str | None:
        """`"1"`, `"2"`, `"tie"`, or None when the verdict cannot be read. Raises JudgeFailedError."""
        text = self._template.render(self._question, first, second, n_images=len(self._images), ties=self._critic._ties)
        said, finished = await self._ask(text)
        return parse_verdict(said, parsing=self._critic._parsing, finished=finished).choice

    async def score(self, response: str) -> float | None:
        """From 0 (worst) to 1 (best), or None when the score cannot be read. Raises JudgeFailedError.

        The critic is asked as in score tasks (`data_prep.tasks.pointwise`), on the scale of `reward_fns.pointwise`.
        """
        from data_prep.tasks.prompts import score_prompt

        said, finished = await self._ask(score_prompt(self._question, response, len(self._images), *SCALE))
        box = find_box(said, finished=finished)
        score = None if box.content is None else read_score(box.content, SCALE)
        return None if score is None else (score - SCALE[0]) / (SCALE[1] - SCALE[0])

    async def _ask(self, text: str) -> tuple[str, bool]:
        """The answer to a user turn with the images in the place of their markers, and whether it was finished."""
        content: list[dict[str, Any]] = []
        for image, piece in zip([None, *self._images], text.split(self._marker), strict=True):
            content += [image] if image is not None else []
            content += [{"type": "text", "text": piece}] if piece else []
        reply = await self._critic.reply([{"role": "user", "content": content}])
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        return reply.texts[0], reply.finish_reasons[0] != "length"
