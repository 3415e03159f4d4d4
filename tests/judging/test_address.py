"""Addresses, keys, proxies, and how much of a server's answer is read."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.judging.address import Address, choose_key, proxy_note
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from reward_fns.bounded_http import LARGEST_BODY
from tests.judging.fake_server import FakeServer, answer
from tests.judging.test_openai_client import client, request


@pytest.mark.parametrize(
    ("url", "sent_to", "here"),
    [
        ("http://127.0.0.1:8/v1", "http://127.0.0.1:8/v1", True),
        (" http://127.1:8/v1/ ", "http://127.1:8/v1", True),
        ("http://[::1]:8/v1", "http://[::1]:8/v1", True),
        ("http://[::ffff:127.0.0.1]/v1", "http://[::ffff:127.0.0.1]/v1", True),
        ("http://0.0.0.0:8/v1", "http://0.0.0.0:8/v1", True),
        ("http://LOCALHOST.:8/v1", "http://LOCALHOST.:8/v1", True),
        ("http://localhost.example/v1", "http://localhost.example/v1", False),
        ("http://10.0.0.1/v1", "http://10.0.0.1/v1", False),
        ("https://h/v1/chat/completions", "https://h/v1", False),
        ("https://h/v1?api-version=3#x", "https://h/v1", False),
    ],
)
def test_addresses(url: str, sent_to: str, here: bool) -> None:
    address = Address(url)
    assert (address.url, address.here) == (sent_to, here)


def test_the_query_of_an_address_goes_with_each_request() -> None:
    assert Address("https://h/v1?api-version=3").client("k", 1.0).default_query == {"api-version": "3"}


NO_ADDRESSES = [
    "127.0.0.1:8000/v1", "localhost", "ftp://h/v1", "http://", "http://h:port/v1", "http:/h/v1", "//h/v1", "",
    "http://[::1/v1", "http://h:99999/v1", "http://exa mple/v1", "http://h/v1\r\nX: y", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_an_address_is_checked_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        OpenAIGenerator("m", url)


@pytest.mark.parametrize("url", ["http://me:SECRET@h:port/v1", "http://me:SECRET@/v1", "me:SECRET@h/v1"])
def test_a_wrong_address_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address") as error:
        Address(url)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "named", "unasked", "url", "key", "warned"),
    [
        ("k", "", "", "http://127.0.0.1:1/v1", "k", False),
        ("k", "", "", "http://node7/v1", "k", True),
        ("", "n\n", "o", "http://127.0.0.1:1/v1", "n", False),
        ("", "", "o", "http://127.0.0.1:1/v1", "EMPTY", True),
        ("", "", "o", "http://node7/v1", "EMPTY", True),
        ("", "", "o", "https://api.example/v1", "o", False),
        ("", "", "", "http://node7/v1", "EMPTY", False),
    ],
)
def test_which_key_an_address_gets(
    monkeypatch: pytest.MonkeyPatch, given: str, named: str, unasked: str, url: str, key: str, warned: bool
) -> None:
    monkeypatch.setenv("CRITIC_R1_API_KEY", named)
    monkeypatch.setenv("OPENAI_API_KEY", unasked)
    said: list[str] = []
    assert (choose_key(given, url, said.append), bool(said)) == (key, warned)


@pytest.mark.parametrize("key", ["sk-ä", "sk-1\nX-Header: 2", "sk-\x00"])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="characters other than printable ASCII") as error:
        choose_key(key, "http://127.0.0.1:1/v1", print)
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "sees"), [("api.openai.com", "org"), ("evilopenai.com", None), ("openai.com.evil.example", None)]
)
def test_whom_the_organization_is_told(monkeypatch: pytest.MonkeyPatch, host: str, sees: str | None) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "org")
    made = Address(f"https://{host}/v1").client("k", 1.0)
    assert (made.organization, made.project) == (sees, sees)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_this_machine_is_not_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, no_proxies: None, variable: str, host: str
) -> None:
    monkeypatch.setenv(variable, "http://me:SECRET@127.0.0.1:9")
    with FakeServer(lambda n, body: answer(body)) as server:
        url = f"http://{host}:{server.port}/v1"
        with OpenAIGenerator("m", url, attempts=1) as generator:
            (found,) = generator.generate([request("hello")])
    assert found.texts == ("hello",)
    assert proxy_note(url) == f"{url} is on this machine: it is reached without the proxy http://<redacted>@127.0.0.1:9"


@pytest.mark.parametrize("proxy", ["http://me:SECRET@127.0.0.1:9", "me:SECRET@127.0.0.1:9"])
def test_a_failure_through_a_proxy_names_it(monkeypatch: pytest.MonkeyPatch, no_proxies: None, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with OpenAIGenerator("m", "http://node7.invalid/v1", attempts=1, first_pause=0.001) as generator:
        try:
            (found,) = generator.generate([request("hello")])
            said = str(found.error)
        except RuntimeError as error:
            said = str(error)
    assert "proxy http://<redacted>@127.0.0.1:9" in said
    assert "NO_PROXY=node7.invalid" in said
    assert "SECRET" not in said


@pytest.mark.parametrize("proxy", ["socks5://me:SECRET@p:1", "foo://me:SECRET@p:1", "http://me:SECRET@p:port"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, no_proxies: None, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    generator = OpenAIGenerator("m", "http://node7.invalid/v1")
    with pytest.raises(ValueError, match="cannot be used") as error:
        generator.generate([request("hello")])
    generator.close()
    assert "SECRET" not in str(error.value)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """Neither the prompt nor the key goes where the first server points to."""
    with FakeServer(lambda n, body: answer(body)) as other:
        target = f"http://localhost:{other.port}/v1/chat/completions?token=SECRET"
        reply = f"HTTP/1.1 307 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        with FakeServer(lambda n, body: reply) as server, client(server) as generator:
            found = generator.generate([request(i) for i in range(3)])
        assert len(server.bodies) == 3, "asked once each"
        assert other.bodies == []
    said = {str(one.error) for one in found}
    assert all("which is not followed: give that address" in text for text in said)
    assert not any("SECRET" in text for text in said)


def http(status: int, payload: bytes, *headers: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", "Connection: close", *headers]
    lines += [f"Content-Length: {len(payload)}"] if length else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + payload


def good(body: dict[str, Any]) -> bytes:
    return json.dumps(answer(body, "fine")).encode()


BOMB = gzip.compress(bytes(LARGEST_BODY + (1 << 20)))

PACKED = [
    (lambda body: http(200, gzip.compress(good(body)), "Content-Encoding: gzip"), None),
    (lambda body: http(200, zlib.compress(good(body)), "Content-Encoding: DEFLATE"), None),
    (lambda body: http(200, good(body), "Content-Encoding: identity"), None),
    (lambda body: http(200, b"\xef\xbb\xbf" + good(body)), None),
    (lambda body: http(200, BOMB, "Content-Encoding: gzip"), "a body of more than"),
    (lambda body: http(400, BOMB, "Content-Encoding: gzip"), "a body of more than"),
    (lambda body: http(500, BOMB, "Content-Encoding: gzip"), "a body of more than"),
    (lambda body: http(200, gzip.compress(BOMB), "Content-Encoding: gzip, gzip"), "compressed as 'gzip, gzip'"),
    (lambda body: http(200, good(body), "Content-Encoding: br"), "compressed as 'br'"),
    (lambda body: http(200, good(body), "Content-Encoding: gzip"), "not compressed as it says"),
    (lambda body: http(200, b" " * (LARGEST_BODY + 1)), "a body of more than"),
    (lambda body: http(500, b" " * (LARGEST_BODY + 1), length=False), "a body of more than"),
    (lambda body: http(200, b'{"a":' * 100_000), "not JSON"),
    (lambda body: http(400, b'{"error":' * 5_000 + b"1" + b"}" * 5_000), "status 400"),
    (lambda body: http(200, good(body), "X-Long: " + "a" * 200_000), "Protocol"),
    (lambda body: http(200, good(body), "Content-Length: 5"), "Protocol"),
    (lambda body: http(204, b""), "not JSON"),
    (lambda body: b"HTTP/1.1 200 X\r\nContent-Le", "disconnected"),
    (lambda body: b"not HTTP at all\r\n\r\n", "Protocol"),
]


@pytest.mark.parametrize(("reply", "said"), PACKED)
def test_how_much_of_an_answer_is_read(reply: Any, said: str | None) -> None:
    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        return reply(body) if body["messages"][0]["content"][1]["text"] == "odd" else answer(body, "fine")

    with FakeServer(behaviour) as server, client(server, attempts=1) as generator:
        generator.generate([request("first")])
        (found,) = generator.generate([request("odd")])
    assert found.texts == (("fine",) if said is None else ())
    assert said is None or said in str(found.error)
