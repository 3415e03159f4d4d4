"""Secrets are taken out of everything that is written or shown: messages, reports, settings, journals.

Gateways are often reached by `https://user:password@host/v1`, and servers repeat the key that they refuse. What a
person needs is the host and the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

_USER = re.compile(r"(?<=://)[^/\s\"'<>]*@")
_QUERY = re.compile(r"(?i)([?&][\w-]{0,40}(?:key|token|secret|password|sig|signature|auth|credential)=)[^&\s\"'#]+")
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=*-]{4,}")
_KEY = re.compile(r"\b(?:sk-|hf_|gsk_|xai-|AIza)[\w*.-]{4,}")
_NAME = re.compile(r"(?i)(?:^|[_.-])(?:api[_-]?key|key|token|secret|password|passwd|authorization|credentials?)$")


def redact(text: str, *secrets: str) -> str:
    """The text without user names and passwords in addresses, without keys, and without the given secrets.

    >>> redact("https://me:pw@host/v1 refuses Bearer abcdef and x?api_key=1")
    'https://***@host/v1 refuses Bearer *** and x?api_key=***'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3 and secret != "EMPTY":
            text = text.replace(secret, HIDDEN)
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _KEY.sub(HIDDEN, _HEADER.sub(rf"\1 {HIDDEN}", text))


def redacted(value: Any) -> Any:
    """Settings as they may be written: texts by `redact`, and nothing under the name of a key, token or password."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(name, str) and _NAME.search(name) and item else redacted(item)
            for name, item in value.items()
        }
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def address_secrets(url: str) -> tuple[str, ...]:
    """The password of an address, as written and decoded; empty when it has none or cannot be read."""
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return ()
    return tuple({password, unquote(password)} - {""})
