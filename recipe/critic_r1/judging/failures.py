"""Why a request failed: whether another attempt may help, whether all requests will fail like it, and the remedy."""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import openai

from reward_fns.replies import FilteredError, SenselessAnswerError

FailureKind = Literal["failed", "rejected", "filtered"]
"""failed: the next run retries. rejected: the prompt is too long. filtered: by a content filter, and final."""

SAMPLING_FIELDS = ("max_tokens", "top_p", "temperature", "seed", "n", "max_completion_tokens")
"""Fields that some models do not support; when a server names several, the first of them is left out."""

LONGEST_TEXT = 2000
"""Characters of an error's fields that are read."""

LONGEST_EXCERPT = 300
"""Characters of an error's body that are quoted when it has no message."""

_FILTER = re.compile(
    r"content.?filter|content management policy|responsibleai|content.?policy|moderation|flagged|safety system"
    r"|inappropriate content|data_inspection|敏感",
    re.I,
)
_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window)|max_model_len|too (?:long|many (?:input )?tokens)|maximum.{0,40}tokens"
    r"|input length|maximum model length|reduce the length",
    re.I,
)
_UNSUPPORTED = re.compile(
    r"n.t.{0,5}support|unsupported|supports? only|only supports?|unrecognized|unknown|unexpected|extraneous|permitted"
    r"|extra.inputs|not allowed|not enabled|deprecated|only one|invalid.value|cannot.{0,20}be.specified"
    r"|(?:must|should) be|less than or equal|currently only",
    re.I,
)
_ONE_ANSWER = re.compile(
    r"only one (?:completion |candidate )?(?:choice|candidate|can)|single completion|\bn (?:must|should|>|=)|n value"
    r"|value of n\b|multiple (?:choices|completions|candidates)",
    re.I,
)
_NO_QUOTA = re.compile(
    r"insufficient.{0,2}(?:quota|balance|funds|credit)|credit balance|plans? (?:and|&) billing|exceeded_current_quota"
    r"|(?:any|no|out of|available|more|enough) credits|credit_limit|spending limit|recharge|余额不足",
    re.I,
)
_LATER = re.compile(r"(?:retry|try again) (?:in|after|later)|per[- ](?:second|minute|min|hour|day)\b", re.I)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """A failed request.

    again: whether another attempt may help. lasting: a reason that other requests may share; empty when only this
    request is affected. doubtful: it is lasting only if no request was ever answered. remedy: what to do.
    """

    message: str
    kind: FailureKind = "failed"
    again: bool = False
    lasting: str = ""
    remedy: str = ""
    doubtful: bool = False


def explain(error: BaseException) -> RequestFailure:
    """Classify an error of the client, the connection or the body."""
    text = message(error)
    if isinstance(error, FilteredError):
        return RequestFailure(text, "filtered")
    if isinstance(error, openai.APIStatusError | SenselessAnswerError):
        status = error.status_code if isinstance(error, openai.APIStatusError) else error.status
        return _status(status, text, detail(error))
    if isinstance(error, RecursionError):
        return RequestFailure("a body with too many levels", again=True)
    for cause in chain(error):
        if _is_httpx(cause, "UnsupportedProtocol", "InvalidURL") or isinstance(cause, UnicodeError):
            return RequestFailure(text, lasting="address", remedy="write the address as http://HOST:PORT/v1")
        if _is_httpx(cause, "ProxyError"):
            remedy = "check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
            return RequestFailure(text, lasting="proxy", remedy=remedy)
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = "give the certificate authority's file in SSL_CERT_FILE"
            return RequestFailure(text, lasting="certificate", remedy=remedy)
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NO_ROUTE):
            return RequestFailure(text, again=True, lasting="no route", remedy="check the host's name and the network")
        if isinstance(cause, ConnectionRefusedError):
            remedy = "start the server, or check its port"
            return RequestFailure(text, again=True, lasting="refused connection", remedy=remedy)
    transient = (openai.APIConnectionError, openai.APIResponseValidationError, TimeoutError)
    again = isinstance(error, transient) or _is_httpx(error, "TransportError", "DecodingError")
    return RequestFailure(text, again=again)


def unsupported_field(error: BaseException) -> str | None:
    """The field that the server rejected; None when it refused the request for another reason."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422):
        return None
    found = detail(error)
    said = f"{found['code']} {found['message']}"
    if not _UNSUPPORTED.search(said) or _TOO_LONG.search(said) or _FILTER.search(said):
        return None
    if found["param"] in SAMPLING_FIELDS:
        return found["param"]
    for name in SAMPLING_FIELDS:
        if re.search(rf"['\"`]{name}['\"`]", said) or (len(name) > 4 and re.search(rf"\b{name}\b", said)):
            return name
    return "n" if _ONE_ANSWER.search(said) else None


def _status(status: int, text: str, found: dict[str, str]) -> RequestFailure:
    said = f"{found['code']} {found['type']} {found['message'] or (text if status else '')}"
    if status in (400, 403, 422, 451) and _FILTER.search(said):
        return RequestFailure(text, "filtered")
    sure = status == 402 or "insufficient_quota" in said or "billing" in f"{found['code']} {found['type']}"
    if sure or (_NO_QUOTA.search(said) and not _LATER.search(said)):
        remedy = "the account has no quota left: check its plan and its billing"
        return RequestFailure(text, lasting="quota", remedy=remedy)
    if status in (400, 413, 422) and (status == 413 or _TOO_LONG.search(said)):
        return RequestFailure(text, "rejected")
    # Rejected messages concern this request, a rejected field all of them.
    of_prompt = re.match(r"messages|input|prompt|none$", found["param"], re.I)
    if status in (400, 422) and not of_prompt and (found["param"] or _UNSUPPORTED.search(said)):
        remedy = "change or leave out the field by --request NAME=VALUE or NAME=null"
        return RequestFailure(text, lasting=f"field {found['param']}", remedy=remedy, doubtful=not found["param"])
    if status in (401, 403, 404, 405):
        return RequestFailure(text, lasting=str(status), remedy="check address, model name and key")
    if status == 407:
        remedy = "the proxy requires a password: check HTTP_PROXY and HTTPS_PROXY"
        return RequestFailure(text, lasting="proxy", remedy=remedy)
    if 300 <= status < 400:
        return RequestFailure(text)
    # 0 is a body with status 200 that is not an answer.
    again = status in (0, 408, 409, 425, 429) or status >= 500
    alike = "" if again else re.sub(r"\d+", "0", text)
    remedy = "check address, model name, key and data"
    return RequestFailure(text, again=again, lasting=alike, remedy=remedy, doubtful=True)


def detail(error: BaseException) -> dict[str, str]:
    """`code`, `type`, `param` and `message` of an error's body, in any of the formats of servers; "" for none.

    `{"error": {"message": ...}}`, `{"error": "..."}`, `{"message": ...}`, `{"detail": ...}`, or one of these in a list.
    """
    body = getattr(error, "body", None)
    if isinstance(error, openai.APIStatusError):
        try:
            body = json.loads(error.response.text)
        except (ValueError, RecursionError, RuntimeError):  # a body that is not JSON, or was not read
            body = error.body
    outer = body[0] if isinstance(body, list) and body else body
    inner = outer.get("error") or outer.get("detail") or outer if isinstance(outer, dict) else outer
    found = dict.fromkeys(("code", "type", "param", "message"), "")
    for part in (outer, inner):
        found |= {name: str(part[name]) for name in found if isinstance(part, dict) and part.get(name) is not None}
    if isinstance(inner, list) and inner and isinstance(inner[0], dict):  # FastAPI's list of errors
        place = inner[0].get("loc")
        found |= {"param": str(place[-1]) if isinstance(place, list) and place else "", "message": str(inner[0])}
    elif not isinstance(inner, dict) and inner:
        found["message"] = str(inner)
    return {name: text[:LONGEST_TEXT] for name, text in found.items()}


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, nearest first."""
    found: BaseException | None = error
    for _ in range(12):
        if found is None:
            return
        yield found
        if isinstance(found, BaseExceptionGroup):
            yield from found.exceptions
        found = found.__cause__ or found.__context__


def _is_httpx(error: BaseException, *names: str) -> bool:
    """Whether an error is one of these classes of the HTTP library, whose name differs between releases."""
    return any(kind.__name__ in names and kind.__module__.startswith("httpx") for kind in type(error).__mro__)


def message(error: BaseException) -> str:
    """One line: the error's class and text, or those of the cause when the library only says that there is one."""
    for cause in chain(error):
        if not isinstance(error, openai.APIConnectionError) or _is_httpx(cause, "HTTPError"):
            error = cause
            break
    if isinstance(error, openai.APIStatusError) and 300 <= error.status_code < 400:
        target = error.response.headers.get("location", "nowhere")
        return f"status {error.status_code}: the server redirects to {target}, which is not followed: give that address"
    if isinstance(error, openai.APIStatusError):
        said = detail(error)["message"] or _excerpt(error)
        return f"{type(error).__name__}: status {error.status_code}: {' '.join(said.split()) or 'no message'}"
    if isinstance(error, TimeoutError) and not str(error):
        return "TimeoutError: no complete answer within --timeout"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _excerpt(error: openai.APIStatusError) -> str:
    """The beginning of the body of an error; empty when it was not read."""
    try:
        return error.response.text[:LONGEST_EXCERPT]
    except RuntimeError:
        return ""
