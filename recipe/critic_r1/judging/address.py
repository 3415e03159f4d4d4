"""A server's address: what of it may be shown, which key it gets, and how it is reached.

A key is for the one who issued it. The OPENAI_API_KEY of the environment goes only where the connection is encrypted;
redirects are not followed, since the prompt and its images would go with them; and a server on this machine is not
asked through a proxy, which could not reach it.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import urllib.request
from collections.abc import Callable
from functools import cached_property
from urllib.parse import urlsplit

import openai

from recipe.critic_r1.redaction import address_secrets, redact

KEY_VARIABLE = "CRITIC_R1_API_KEY"
"""Holds the key for servers of this project's commands, whatever their address."""

NO_KEY = "EMPTY"

SPARE_FILES = 64
"""Open files of a process beside its connections."""


class Address:
    """An address such as `http://127.0.0.1:8000/v1`.

    Raises:
        ValueError: it has no scheme or no host.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = redact(url)
        """The address without user name and password."""
        try:
            parts = urlsplit(url)
            self.host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"{self.shown} is not an address ({error}): write http://HOST:PORT/v1") from None
        if parts.scheme not in ("http", "https") or not self.host:
            raise ValueError(f"{self.shown} is not an address: write http://HOST:PORT/v1, or https://HOST/v1")
        self.encrypted = parts.scheme == "https"
        self.secrets = address_secrets(url)

    @cached_property
    def loopback(self) -> bool:
        """Whether the address is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    @cached_property
    def proxy(self) -> str:
        """The proxy that requests go through, without its password; empty for none."""
        if self.loopback or urllib.request.proxy_bypass(self.host):
            return ""
        proxies = urllib.request.getproxies()
        return redact(proxies.get("https" if self.encrypted else "http") or proxies.get("all") or "")

    def client(self, api_key: str, timeout: float) -> openai.AsyncOpenAI:
        """A client that follows no redirect and sends no organization or project of the environment to others."""
        client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=api_key or NO_KEY,
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not self.loopback),
        )
        if not self.host.endswith("openai.com"):
            client.organization = client.project = None
        return client


def choose_key(given: str, url: str, warn: Callable[[str], None]) -> str:
    """The key for an address: the one given, else CRITIC_R1_API_KEY, else OPENAI_API_KEY where https is spoken.

    Args:
        given: by the user for this server; empty for none.
        warn: told when a key goes unencrypted to another machine, and when OPENAI_API_KEY is held back.
    """
    address = Address(url)
    key = given or os.environ.get(KEY_VARIABLE, "")
    if not key and (unasked := os.environ.get("OPENAI_API_KEY", "")):
        if address.encrypted:
            return unasked
        warn(f"OPENAI_API_KEY is not sent to {address.shown}, which is not encrypted: give --api-key if it is meant")
    if key and key != NO_KEY and not address.encrypted and not address.loopback:
        warn(f"the key goes to {address.shown} unencrypted: anyone on the way can read it")
    return key or NO_KEY


def proxy_note(url: str) -> str:
    """What to say when a proxy of the environment is not used for an address on this machine; empty otherwise."""
    address = Address(url)
    proxies = urllib.request.getproxies()
    found = proxies.get("https" if address.encrypted else "http") or proxies.get("all")
    if found and address.loopback and not urllib.request.proxy_bypass(address.host):
        return f"{address.shown} is on this machine: it is reached without the proxy {redact(found)}"
    return ""


def open_files_for(concurrency: int) -> None:
    """Let the process open a file per connection.

    Raises:
        ValueError: the machine does not let it.
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
