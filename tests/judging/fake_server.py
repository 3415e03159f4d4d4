"""A chat-completions server on 127.0.0.1 that misbehaves on command."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[int, dict[str, Any]], str | bytes | dict[str, Any]]
"""(which attempt of this very request, counted from 1; its body) -> what to do: a fault's name, a whole HTTP response,
or an answer's body."""


def answer(body: dict[str, Any], text: str | None = None, **message: Any) -> dict[str, Any]:
    """A well-formed completion that repeats the prompt's text, `n` times."""
    said = "".join(p.get("text", "") for m in body["messages"] for p in m["content"])
    content = said if text is None else text
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
            for i in range(body["n"])
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    }


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 overflows when the machine is busy; the resets that follow are faults nobody ordered.
    request_queue_size = 128


def say(choice: object) -> str:
    return f"<think>Looked.</think>\\boxed{{{choice}}}"


def prefers_larger(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that prefers the larger number; a policy whose samples are 0, 1, 2, ...; 11 and 5 tokens an answer."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    pair = re.search(r"Response 1: (\d+)\nResponse 2: (\d+)", text)
    if pair:
        return answer(body, say(1 if int(pair[1]) > int(pair[2]) else 2))
    sampled = answer(body)
    for i, choice in enumerate(sampled["choices"]):
        choice["message"]["content"] = say(i)
    return sampled


class FakeServer:
    """Serves while its `with` block runs."""

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour = behaviour
        self.bodies: list[dict[str, Any]] = []
        self.answered: Counter[str] = Counter()
        """How often each request was answered well."""
        self.most_in_flight = 0
        self._attempts: Counter[str] = Counter()
        self._in_flight = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = _Listener(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        name = json.dumps(body, sort_keys=True)
        with self._lock:
            self._attempts[name] += 1
            attempt = self._attempts[name]
            self.bodies.append(body)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            what = self.behaviour(attempt, body)
            # Out of flight before the client can know that it is answered and send the next.
            with self._lock:
                self._in_flight -= 1
                self.answered[name] += isinstance(what, dict)
            if isinstance(what, dict) and "status" in what:
                _send(handler, what["status"], json.dumps(what["body"]).encode())
            elif isinstance(what, dict):
                _send(handler, 200, json.dumps(what).encode())
            elif isinstance(what, bytes):
                handler.close_connection = True
                handler.wfile.write(what)
            else:
                _fault(handler, what, body)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, payload: bytes, kind: str = "application/json") -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(payload)))
    if status == 429:
        handler.send_header("Retry-After", "0")
    handler.end_headers()
    handler.wfile.write(payload)


def _fault(handler: BaseHTTPRequestHandler, what: str, body: dict[str, Any]) -> None:
    good = json.dumps(answer(body)).encode()
    null = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}
    payloads = {
        "broken json": good[:-20],
        "bytes": b"\xff\xfe\x00garbage",
        "other json": b'{"detail": "warming up"}',
        "list": b"[]",
        "no choices": json.dumps({**json.loads(good), "choices": []}).encode(),
        "null text": json.dumps({**json.loads(good), "choices": [null]}).encode(),
    }
    if what.isdigit():
        _send(handler, int(what), json.dumps({"error": {"message": f"status {what}", "type": "fault"}}).encode())
    elif what == "html":
        _send(handler, 200, b"<html>Bad gateway</html>", "text/html")
    elif what in payloads:
        _send(handler, 200, payloads[what])
    elif what in ("cut", "hang up", "hang"):
        if what == "cut":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(good)))
            handler.end_headers()
            handler.wfile.write(good[: len(good) // 2])
            handler.wfile.flush()
        elif what == "hang":
            threading.Event().wait(1.5)
        handler.close_connection = True
    else:
        raise ValueError(what)
