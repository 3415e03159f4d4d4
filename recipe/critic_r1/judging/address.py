"""A server's address: how it is displayed, which key it gets, and how it is reached.

OPENAI_API_KEY of the environment is sent over encrypted connections only. Redirects are not followed, since they would
take the prompt and its images elsewhere. A server on this machine is not reached through a proxy. The size of responses
is limited, errors and compressed bodies included.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import resource
import socket
import urllib.request
from collections.abc import Callable
from functools import cached_property
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import openai

from recipe.critic_r1.redaction import address_secrets, redact
from reward_fns.bounded_http import InvalidAddress, bounded_client

KEY_VARIABLE = "CRITIC_R1_API_KEY"
"""Environment variable with the key for servers of this project's commands, whatever their address."""

NO_KEY = "EMPTY"

SPARE_FILES = 64
"""Files that a process opens besides its connections."""


class Address:
    """An address such as `http://127.0.0.1:8000/v1`.

    Raises:
        ValueError: it has no scheme or no host.
    """

    def __init__(self, url: str) -> None:
        self.shown = redact(url)
        """The address without user name and password."""
        form = "write http://HOST:PORT/v1, or https://HOST/v1"
        try:
            parts = urlsplit(url.strip())
            self.host, _ = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as error:
            raise ValueError(f"{self.shown} is not an address ({redact(str(error))}): {form}") from None
        if parts.scheme not in ("http", "https") or not self.host or re.search(r"[\s\x00-\x1f\\]", url.strip()):
            raise ValueError(f"{self.shown} is not an address: {form}")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        self.url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        """Up to and including `/v1`, without the path of an endpoint."""
        self._query = dict(parse_qsl(parts.query))
        self.encrypted = parts.scheme == "https"
        self.secrets = address_secrets(url)

    @cached_property
    def loopback(self) -> bool:
        """Whether the address is on this machine."""
        host = self.host
        with contextlib.suppress(OSError):
            host = socket.inet_ntoa(socket.inet_aton(host))  # 127.1 and 2130706433, too
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")
        return (getattr(found, "ipv4_mapped", None) or found).is_loopback

    @cached_property
    def here(self) -> bool:
        """Whether a request stays on this machine: loopback, or 0.0.0.0, which a server listens on."""
        return self.loopback or self.host in ("0.0.0.0", "::", "0")

    @cached_property
    def proxy(self) -> str:
        """The proxy that requests go through, without its password; empty for none."""
        return "" if self.here else self.proxy_of_environment

    @cached_property
    def proxy_of_environment(self) -> str:
        """The environment's proxy for the address, without its password; empty for none."""
        proxies = urllib.request.getproxies()
        found = proxies.get("https" if self.encrypted else "http") or proxies.get("all")
        if not found or urllib.request.proxy_bypass(self.host):
            return ""
        return redact(found if "://" in found else f"http://{found}")

    def client(self, api_key: str, timeout: float) -> openai.AsyncOpenAI:
        """A client that follows no redirects and sends the environment's organization and project to OpenAI only.

        Raises:
            ValueError: the environment's proxy cannot be used.
        """
        try:
            http = bounded_client(direct=self.here)
        except (ValueError, ImportError, InvalidAddress) as error:  # ImportError: a SOCKS proxy without its library
            raise ValueError(
                f"the proxy {self.proxy} cannot be used ({redact(str(error))}): correct HTTP_PROXY, HTTPS_PROXY or"
                f" ALL_PROXY, or set NO_PROXY={self.host}"
            ) from None
        client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=api_key or NO_KEY,
            timeout=timeout,
            max_retries=0,
            default_query=self._query,
            http_client=http,
        )
        if self.host != "openai.com" and not self.host.endswith(".openai.com"):
            client.organization = client.project = None
        return client


def choose_key(given: str, url: str, warn: Callable[[str], None]) -> str:
    """The key for an address: the one given, else CRITIC_R1_API_KEY, else OPENAI_API_KEY if the address is https.

    Args:
        given: by the user for this server; empty for none.
        warn: called when a key is sent unencrypted to another machine, and when OPENAI_API_KEY is not sent.

    Raises:
        ValueError: the address is invalid, or the key cannot be sent in a header.
    """
    address = Address(url)
    key = (given or os.environ.get(KEY_VARIABLE, "")).strip()
    unasked = os.environ.get("OPENAI_API_KEY", "").strip()
    if not all(character.isascii() and character.isprintable() for character in key or unasked):
        raise ValueError("the API key has characters other than printable ASCII: check it")
    if not key and unasked:
        if address.encrypted:
            return unasked
        warn(f"OPENAI_API_KEY is not sent to {address.shown}, which is not encrypted: use --api-key to send a key")
    if key and key != NO_KEY and not address.encrypted and not address.here:
        warn(f"the key is sent to {address.shown} unencrypted: anyone on the network path can read it")
    return key or NO_KEY


def proxy_note(url: str) -> str:
    """A note that the environment's proxy is not used for an address on this machine; empty otherwise."""
    address = Address(url)
    if address.here and (proxy := address.proxy_of_environment):
        return f"{address.shown} is on this machine: it is reached without the proxy {proxy}"
    return ""


def open_files_for(concurrency: int) -> None:
    """Raise the process's limit of open files to one per connection.

    Raises:
        ValueError: the machine does not allow it.
    """
    needed = concurrency + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ValueError(
                f"--concurrency {concurrency} needs {needed} open files, and the limit is {hard}: take"
                f" --concurrency {max(1, hard - SPARE_FILES)}, or raise the limit (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
