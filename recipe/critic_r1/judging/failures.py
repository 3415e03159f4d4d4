"""Why a request failed: whether another attempt may help, whether every request will meet the same, and the remedy."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import openai

from recipe.critic_r1.judging.replies import FilteredError, SenselessAnswerError

FailureKind = Literal["failed", "rejected", "filtered"]
"""failed: the next run asks again. rejected: this prompt is too long for the model. filtered: final, by a filter."""

SAMPLING_FIELDS = ("max_tokens", "temperature", "top_p", "seed", "n", "max_completion_tokens")
"""Fields of a request that some models do not take."""

_FILTER = re.compile(
    r"content.?filter|content management policy|responsibleai|content.?policy|moderation|flagged", re.I
)
_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window)|max_model_len|too (?:long|many tokens)|maximum.{0,40}tokens", re.I
)
_UNSUPPORTED = re.compile(
    r"unsupported|not.{0,5}support|unrecognized|unknown|unexpected|not permitted|extra.inputs|not allowed|deprecated"
    r"|only one|must be 1\b|invalid.value|cannot.{0,20}be.specified",
    re.I,
)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer.

    again: whether another attempt may help. lasting: what every other request would meet as well, empty when the
    failure may be this request's alone. remedy: what to do about it.
    """

    message: str
    kind: FailureKind = "failed"
    again: bool = False
    lasting: str = ""
    remedy: str = ""


def explain(error: BaseException) -> Failure:
    """Sort an error of the client, of the connection or of the body."""
    text = message(error)
    if isinstance(error, FilteredError):
        return Failure(text, "filtered")
    if isinstance(error, openai.APIStatusError | SenselessAnswerError):
        status = error.status_code if isinstance(error, openai.APIStatusError) else error.status
        return _status(status, text, _detail(error))
    if isinstance(error, RecursionError):
        return Failure("a body of too many levels", again=True)
    causes = list(chain(error))
    for cause in causes:
        if _is_httpx(cause, "UnsupportedProtocol", "InvalidURL"):
            return Failure(text, lasting="address", remedy="write the address as http://HOST:PORT/v1")
        if _is_httpx(cause, "ProxyError"):
            return Failure(
                text, lasting="proxy", remedy="check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(text, lasting="certificate", remedy="name the certificate's authority by SSL_CERT_FILE")
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NO_ROUTE):
            return Failure(text, again=True, lasting="no route", remedy="check the host's name and the network")
        if isinstance(cause, ConnectionRefusedError):
            return Failure(text, again=True, lasting="refused connection", remedy="start the server, or check its port")
    return Failure(text, again=isinstance(error, _PASSING) or _is_httpx(error, "TransportError", "DecodingError"))


_PASSING = (
    openai.APIConnectionError,
    openai.APIResponseValidationError,
    TimeoutError,
)


def unsupported_field(error: BaseException) -> str | None:
    """The field of a request that the server does not take, when it refused the request for one."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422):
        return None
    detail = _detail(error)
    said = f"{detail.get('code')} {detail.get('message') or error}"
    if not _UNSUPPORTED.search(said) or _TOO_LONG.search(said) or _FILTER.search(said):
        return None
    if detail.get("param") in SAMPLING_FIELDS:
        return str(detail["param"])
    for name in SAMPLING_FIELDS:
        if re.search(rf"['\"`]{name}['\"`]", said) or (len(name) > 4 and re.search(rf"\b{name}\b", said)):
            return name
    return (
        "n"
        if re.search(
            r"only one (?:completion )?choice|\bn must be\b|\bn > 1\b|multiple (?:choices|completions)", said, re.I
        )
        else None
    )


def _status(status: int, text: str, detail: dict[str, Any]) -> Failure:
    said = f"{detail.get('code')} {detail.get('type')} {detail.get('message') or text}"
    codes = f"{detail.get('code')} {detail.get('type')}"
    if status in (400, 403, 422, 451) and _FILTER.search(said):
        return Failure(text, "filtered")
    if status == 402 or re.search(r"insufficient.(?:quota|balance)|billing|credit", codes, re.I):
        return Failure(text, lasting="quota", remedy="the account has no quota left: check its plan and its billing")
    if status in (400, 413, 422) and (status == 413 or _TOO_LONG.search(said)):
        return Failure(text, "rejected")
    if status in (400, 422) and (detail.get("param") or _UNSUPPORTED.search(said)):
        remedy = "change or leave out the field by --request NAME=VALUE or NAME=null"
        return Failure(text, lasting=f"field {detail.get('param')}", remedy=remedy)
    if status in (401, 403, 404, 405):
        return Failure(text, lasting=str(status), remedy="check address, model name and key")
    if status == 407:
        return Failure(text, lasting="proxy", remedy="the proxy wants a password: check HTTP_PROXY and HTTPS_PROXY")
    if 300 <= status < 400:
        return Failure(text, remedy="give the address that the server redirects to")
    # A body with status 200 that is not an answer has no status here.
    return Failure(text, again=status in (0, 408, 409, 425, 429) or status >= 500)


def _detail(error: BaseException) -> dict[str, Any]:
    """`code`, `type`, `param` and `message` as OpenAI's error bodies have them."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else {"message": str(inner)}
    return {}


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, nearest first."""
    found: BaseException | None = error
    for _ in range(12):
        if found is None:
            return
        yield found
        if isinstance(found, BaseExceptionGroup):
            yield from found.exceptions
        found = found.__cause__ or found.__context__


def _is_httpx(error: BaseException, *names: str) -> bool:
    """Whether an error is one of these of the HTTP library, which has another module's name in some releases."""
    return any(kind.__name__ in names and kind.__module__.startswith("httpx") for kind in type(error).__mro__)


def message(error: BaseException) -> str:
    """One line: the error's class and text, of the cause where the library says only that there is one."""
    for cause in chain(error):
        if not isinstance(error, openai.APIConnectionError) or _is_httpx(cause, "HTTPError"):
            error = cause
            break
    if isinstance(error, openai.APIStatusError) and 300 <= error.status_code < 400:
        target = error.response.headers.get("location", "nowhere")
        return f"status {error.status_code}: the server redirects to {target}, which is not followed"
    if isinstance(error, TimeoutError) and not str(error):
        return "TimeoutError: no whole answer within --timeout"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
