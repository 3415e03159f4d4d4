"""The hit rate of the engine's image cache, from the text that a vLLM server publishes."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from recipe.critic_r1.rollout.cache_metrics import ImageCacheRate, counters

TEXT = """# HELP vllm:mm_cache_queries_total Multi-modal cache queries, in terms of number of queried items.
# TYPE vllm:mm_cache_queries_total counter
vllm:mm_cache_queries_total{{engine="0",model_name="m"}} {queries}
vllm:mm_cache_queries_total{{engine="1",model_name="m"}} 2.0
# HELP vllm:mm_cache_hits_total Multi-modal cache hits, in terms of number of cached items.
# TYPE vllm:mm_cache_hits_total counter
vllm:mm_cache_hits_total{{engine="0",model_name="m"}} {hits}
vllm:mm_cache_hits_total{{engine="1",model_name="m"}} 1.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} 3.0
"""


def test_engines_of_a_server_are_summed() -> None:
    assert counters(TEXT.format(queries=8.0, hits=7.0)) == (10.0, 8.0)
    assert counters("") == (0.0, 0.0)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, str]]]:
    said = {"text": ""}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(said["text"].encode())

        def log_message(self, *args: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http.server_port}", said
    http.shutdown()


def test_the_rate_is_that_of_the_last_step(server: tuple[str, dict[str, str]]) -> None:
    address, said = server
    rate = ImageCacheRate([address])
    for queries, hits, expected in ((14.0, 13.0, 14 / 16), (14.0, 13.0, None), (24.0, 18.0, 0.5)):
        said["text"] = TEXT.format(queries=queries, hits=hits)
        assert rate.since_last() == expected


def test_a_server_that_is_gone_gives_no_rate() -> None:
    assert ImageCacheRate(["127.0.0.1:1"]).since_last() is None
