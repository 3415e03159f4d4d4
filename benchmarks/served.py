"""A model folder behind `critic-r1 serve`, for as long as a `with` block runs, and what its counters say."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LONGEST_START = 300.0
"""Seconds; vLLM needs 30 to 90 of them on two cores."""

_COUNTERS = {
    "prefilled": 'vllm:prompt_tokens_by_source_total{engine="0",model_name="%s",source="local_compute"}',
    "prompt": 'vllm:prompt_tokens_total{engine="0",model_name="%s"}',
    "generated": 'vllm:generation_tokens_total{engine="0",model_name="%s"}',
}


@dataclass(frozen=True)
class Server:
    """A running server: its address up to `/v1`, and the name of its model."""

    url: str
    name: str

    def counters(self) -> dict[str, int]:
        """Tokens since the start: `prompt`, of these `prefilled` (the rest was in the prefix cache), `generated`."""
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {what: int(float(found[counter % self.name])) for what, counter in _COUNTERS.items()}


@contextmanager
def served(model: Path, name: str, log: Path, *options: str) -> Iterator[Server]:
    """Serve a model folder on a free port.

    Args:
        log: file for what the server prints.
        options: of `vllm serve`.

    Raises:
        RuntimeError: the server ended, or is not up after LONGEST_START seconds; the message names its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "recipe.critic_r1.cli", "serve", str(model), "--served-model-name", name]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *options], stdout=lines, stderr=lines
        )
    server = Server(f"http://127.0.0.1:{port}/v1", name)
    try:
        _wait_for(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_for(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}: see {log}")
        try:
            urllib.request.urlopen(f"{server.url}/models", timeout=10).close()
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"the server is not up after {LONGEST_START:.0f} s: see {log}")
