"""Secrets taken out of what is written or shown: messages, reports, settings, journals, configurations.

Gateways are often reached by `https://user:password@host/v1`, and servers repeat the key that they refuse. What a
person needs is the host and the message.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from omegaconf import DictConfig, OmegaConf

HIDDEN = "<redacted>"

_SECRET_NAME = re.compile(
    r"(?i:secret|passw(or)?d|passphrase|credential|authorization|bearer|cookie|[_-]pass$)"
    r"|(?i:(^|[_-])(pwd|pat|cred|auth|token)s?($|[_-]))"
    r"|(?i:(api|access|account|auth|private|signing|ssh|encryption)[_-]?key)|[A-Z0-9]_KEY$"
)
_PASSWORD = re.compile(r"(?i)passw|secret|pwd")
_NOT_SECRET = re.compile(
    r"(?i)tokens$|(^|_)(eos|bos|pad|unk|sep|cls|mask|image|video|audio|stop|special)_token|token_(id|len)"
)
_USER_INFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#\"'<>]+@")
_USER_INFO_ALONE = re.compile(r"(?<![\w/])[\w.%+-]+:[^\s/?#@\"'<>]+@(?=[\w.-])")
"""Of an address without a scheme, which must hold a password to be told from a mail address."""
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:[\w-]*(?:key|token|secret|password|signature|sig|credential))=)[^&#\s]+")
_HEADER = re.compile(r"\b(?:((?i:bearer))\s+[\w.~+/=*-]{6,}|((?i:basic))\s+(?=[a-z+/]*[A-Z0-9])[\w+/]{8,}={0,2})")
_KEY = re.compile(
    r"\b(?:sk-|hf_|gsk_|xai-|AIza|AKIA|gh[pousr]_|github_pat_|glpat-|xox[abp]-|nvapi-|eyJ[\w-]+\.eyJ)[\w*.-]{4,}"
)
_OPTION = re.compile(r"(?i)(--[\w-]*(?:key|token|secret|password)[= ])[^\s'\"]+")


def secret_name(name: str) -> bool:
    """Whether a variable or key of this name holds a secret.

    >>> secret_name("WANDB_API_KEY"), secret_name("VLLM_S3_SECRET"), secret_name("messages_key"), secret_name("HF_HOME")
    (True, True, False, False)
    """
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name)


def redact(text: str, *secrets: str) -> str:
    """The text without user names, passwords and keys in addresses, without API keys, and without the given secrets.

    >>> redact("https://me:pw@mirror/x?token=abc&n=1 refuses Bearer abcdef")
    'https://<redacted>@mirror/x?token=<redacted>&n=1 refuses Bearer <redacted>'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3 and secret != "EMPTY":  # what servers without keys are given
            text = text.replace(secret, HIDDEN)
    text = _USER_INFO_ALONE.sub(f"{HIDDEN}@", _USER_INFO.sub(rf"\1{HIDDEN}@", text))
    text = _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", text)
    text = _OPTION.sub(rf"\1{HIDDEN}", text)
    return _KEY.sub(HIDDEN, _HEADER.sub(lambda match: f"{match[1] or match[2]} {HIDDEN}", text))


def redacted(value: Any, name: str = "", *, inside: bool = False) -> Any:
    """Settings as they may be written: texts by `redact`, and no text, nor a numeric password, under a secret's name.

    Args:
        name: of the value.
        inside: whether it is part of something with the name of a secret.
    """
    secret = inside or secret_name(name)
    if isinstance(value, Mapping):
        return {key: redacted(item, str(key), inside=secret) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name, inside=secret) for item in value]
    if isinstance(value, str):
        return HIDDEN if value and secret else redact(value)
    return HIDDEN if _PASSWORD.search(name) and type(value) is int else value


def address_secrets(url: str) -> tuple[str, ...]:
    """The password of an address, as written and decoded; empty when it has none or cannot be read."""
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return ()
    return tuple({password, unquote(password)} - {""})


def redacted_config(config: DictConfig) -> Any:
    """A configuration as plain values, resolved, without secrets.

    A value that comes from the environment (``${oc.env:...}``, directly or by reference) stays an interpolation; the
    value of a key that names a secret is hidden, and so is every other value that is equal to it.
    """
    resolved = OmegaConf.to_container(config, resolve=True)
    raw = OmegaConf.to_container(config, resolve=False)
    from_environment, secret = _sensitive(resolved, raw, "")
    return _without(resolved, raw, "", from_environment, secret)


def _sensitive(value: Any, raw: Any, name: str) -> tuple[set[str], set[str]]:
    """Values that come from the environment, and those of keys that name a secret."""
    from_environment: set[str] = set()
    secret: set[str] = set()
    for key, item, item_raw in _children(value, raw):
        inner = _sensitive(item, item_raw, key or name)
        from_environment |= inner[0]
        secret |= inner[1]
    if isinstance(value, str) and value:
        if isinstance(raw, str) and "oc.env" in raw:
            from_environment.add(value)
        if secret_name(name):
            secret.add(value)
    return from_environment, secret


def _without(value: Any, raw: Any, name: str, from_environment: set[str], secret: set[str]) -> Any:
    if isinstance(value, dict):
        found = _children(value, raw)
        return {key: _without(item, item_raw, key, from_environment, secret) for key, item, item_raw in found}
    if isinstance(value, list):
        found = _children(value, raw)
        return [_without(item, item_raw, name, from_environment, secret) for _, item, item_raw in found]
    if not isinstance(value, str):
        return redacted(value, name)
    if isinstance(raw, str) and "${" in raw and ("oc.env" in raw or value in from_environment):
        return raw
    return HIDDEN if value in secret or (value and secret_name(name)) else redact(value)


def _children(value: Any, raw: Any) -> list[tuple[str, Any, Any]]:
    """Name, value and unresolved value of what is inside; a whole node may be an interpolation."""
    if isinstance(value, dict):
        return [(str(key), item, raw[key] if isinstance(raw, dict) else item) for key, item in value.items()]
    if isinstance(value, list):
        same = isinstance(raw, list) and len(raw) == len(value)
        return [("", item, raw[i] if same else item) for i, item in enumerate(value)]
    return []
