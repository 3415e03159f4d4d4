"""How often the rollout engine found an image in its cache, from the counters that vLLM publishes.

vLLM puts an image through its processor once and keeps the result by the image's hash, so of n rollouts of a prompt
n - 1 should be hits: they go to one server (`recipe.critic_r1.rollout.client`). A lower rate says that the cache
(``mm_processor_cache_gb`` of vLLM) is smaller than the images in flight.
"""

import urllib.request
from collections.abc import Sequence

QUERIES, HITS = "vllm:mm_cache_queries_total", "vllm:mm_cache_hits_total"
SECONDS = 5.0


class ImageCacheRate:
    """Hit rate over all servers since the last call."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """
        Args:
            addresses: ``host:port`` of each rollout server; they answer ``/metrics`` unless verl's
                ``rollout.disable_log_stats`` is on.
        """
        self._addresses = list(addresses)
        self._before = (0.0, 0.0)

    def since_last(self) -> float | None:
        """Hits by queries, 0 to 1; None when no image was asked for, or a server does not answer in time."""
        if not self._addresses:
            return None
        try:
            found = [counters(_read(address)) for address in self._addresses]
        except OSError:
            return None
        queries, hits = (sum(column) for column in zip(*found, strict=True))
        new_queries, new_hits = queries - self._before[0], hits - self._before[1]
        self._before = (queries, hits)
        return new_hits / new_queries if new_queries > 0 else None


def counters(text: str) -> tuple[float, float]:
    """Queries and hits, summed over the engines of a server, from the text of its ``/metrics``."""
    from prometheus_client.parser import text_string_to_metric_families

    totals = {QUERIES: 0.0, HITS: 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    return totals[QUERIES], totals[HITS]


def _read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS) as answer:
        return str(answer.read().decode("utf-8"))
