"""An HTTP client for the openai package that bounds what a server sends back, errors and packed bodies included.

verl loads this file by its path, too: it imports the openai package, the standard library and a sibling only.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

import openai

if TYPE_CHECKING or __package__:
    from reward_fns.replies import SenselessAnswerError
else:  # loaded by its path: by_path.py explains
    SenselessAnswerError = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"](
        "replies"
    ).SenselessAnswerError

LARGEST_BODY = 32 << 20
"""Bytes of a response, uncompressed; one per request in flight may be in memory at a time."""

# The name of the client's HTTP library differs between releases.
_LIBRARY = openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
_http: Any = importlib.import_module(_LIBRARY)

InvalidAddress: type[Exception] = _http.InvalidURL
"""Raised for the address of a proxy that cannot be used."""


class BoundedBody(_http.AsyncByteStream):  # type: ignore[misc]
    """The body of a response, decompressed here up to LARGEST_BODY.

    Raises:
        SenselessAnswerError: while reading, when it is larger or not compressed with gzip or deflate.
    """

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding.strip().lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        packed = self._encoding not in ("", "identity")
        if packed and self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise SenselessAnswerError(f"a body compressed as {self._encoding[:40]!r}, which was not requested")
        unpack = zlib.decompressobj(wbits=47)  # gzip or zlib, as the header says
        left = LARGEST_BODY
        async for data in self._stream:
            try:
                chunk = unpack.decompress(data, left + 1) if packed else data
            except zlib.error as error:
                raise SenselessAnswerError(f"a body that is not compressed as it says ({error})") from error
            left -= len(chunk)
            if left < 0:
                raise SenselessAnswerError(f"a body of more than {LARGEST_BODY:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: Any) -> None:
    """Limit a response's body before any of it is read."""
    response.stream = BoundedBody(response.stream, response.headers.pop("content-encoding", ""))


def bounded_client(direct: bool) -> openai.DefaultAsyncHttpxClient:
    """A client that follows no redirect, since the prompt, its images and the key would go with it.

    Args:
        direct: do not use the proxies of the environment.

    Raises:
        ValueError, ImportError, InvalidAddress: the environment names a proxy that cannot be used.
    """
    return openai.DefaultAsyncHttpxClient(
        follow_redirects=False, trust_env=not direct, event_hooks={"response": [_bound]}
    )
