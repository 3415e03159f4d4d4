"""Confidence intervals of metrics.

Judgements of one image (both orders of a pair, eight samples of one question) are not independent, and treating them as
if they were makes intervals too narrow. So a metric is a ratio of sums over *clusters* (images), and its interval comes
from resampling clusters. All metrics of one report share the same resamples, so the difference of two is a paired
comparison.

A bootstrap has no width when all clusters agree (0 % or 100 %), and is not needed when each cluster is a single yes or
no. Both cases use Wilson's interval, with clusters as trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

RESAMPLES = 2000
"""The ends of a 95 % interval then vary by about 0.1 standard errors from seed to seed."""

CONFIDENCE = 0.95

BLOCK_CELLS = 4_000_000
"""Most cells (resamples x clusters) in memory at once: 32 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its interval. `value`, `low`, `high` are None when nothing was observed (`n` = 0)."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON: the keys `value`, `low`, `high`, `n`."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None:
            return "not observed"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


NOTHING = Estimate(None, None, None, 0)


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927). Raises ValueError when n is 0."""
    if n < 1:
        raise ValueError("a proportion of nothing has no interval")
    interval = binomtest(round(successes), n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class ClusterBootstrap:
    """Intervals over observations that come in clusters.

    Args:
        clusters: the name of each observation's cluster (for us: the image's hash).
        seed: of the resampling, which is the same for all metrics of this object.
    """

    def __init__(
        self, clusters: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
    ) -> None:
        names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        self._codes: NDArray[np.intp] = codes
        self._n_clusters = len(names)
        self._seed, self._resamples, self._confidence = seed, resamples, confidence

    def rate(self, values: ArrayLike, counted: ArrayLike | None = None) -> Estimate:
        """Mean of `values` over the observations that are `counted`.

        Args:
            values: a number per observation; for a proportion 0 or 1.
            counted: whether an observation is in the denominator; None counts all.
        """
        numbers, mask = self._prepare(values, counted)
        n = int(mask.sum())
        if n == 0:
            return NOTHING
        numerators, denominators = self._sums(numbers * mask), self._sums(mask)
        value = float(numerators.sum() / n)
        occupied = denominators > 0
        clusters = int(occupied.sum())
        binary = bool(np.isin(numbers[mask > 0], (0.0, 1.0)).all())
        if binary and (denominators.max() == 1 or value in (0.0, 1.0)):
            low, high = wilson(value * clusters, clusters, self._confidence)
        else:
            low, high = self._percentiles(self._ratios(numerators, denominators))
        return Estimate(value, low, high, n)

    def balance(self, values: ArrayLike, counted: ArrayLike | None = None, *, limit: float = 1.0) -> Estimate:
        """Mean of `values` in [-limit, limit], such as the preference for one of two sides.

        When all values are the same, the interval extends to both sides as far as Wilson's does from 0: a judge without
        a bias in six pairs may still have one, in either direction.
        """
        numbers, mask = self._prepare(values, counted)
        n = int(mask.sum())
        if n == 0:
            return NOTHING
        numerators, denominators = self._sums(numbers), self._sums(mask)
        value = float(numerators.sum() / n)
        if np.ptp(numbers[mask > 0]) > 0:
            return Estimate(value, *self._percentiles(self._ratios(numerators, denominators)), n)
        _, reach = wilson(0, int((denominators > 0).sum()), self._confidence)
        return Estimate(value, max(-limit, value - limit * reach), min(limit, value + limit * reach), n)

    def difference(
        self,
        values: ArrayLike,
        others: ArrayLike,
        counted: ArrayLike | None = None,
        others_counted: ArrayLike | None = None,
    ) -> Estimate:
        """Mean of `values` minus mean of `others`, both on the same resampled clusters."""
        a, a_mask = self._prepare(values, counted)
        b, b_mask = self._prepare(others, others_counted)
        n = int(min(a_mask.sum(), b_mask.sum()))
        if n == 0:
            return NOTHING
        value = float((a * a_mask).sum() / a_mask.sum() - (b * b_mask).sum() / b_mask.sum())
        drawn = self._ratios(self._sums(a * a_mask), self._sums(a_mask)) - self._ratios(
            self._sums(b * b_mask), self._sums(b_mask)
        )
        return Estimate(value, *self._percentiles(drawn), n)

    def macro(self, values: ArrayLike, groups: Sequence[ArrayLike]) -> Estimate:
        """Mean of the groups' means; each group is a mask over the observations, and empty groups are left out."""
        prepared = [self._prepare(values, group) for group in groups]
        kept = [(numbers, mask) for numbers, mask in prepared if mask.sum()]
        if not kept:
            return NOTHING
        value = float(np.mean([numbers.sum() / mask.sum() for numbers, mask in kept]))
        drawn = np.nanmean([self._ratios(self._sums(numbers), self._sums(mask)) for numbers, mask in kept], axis=0)
        return Estimate(value, *self._percentiles(drawn), int(sum(mask.sum() for _, mask in kept)))

    def _prepare(self, values: ArrayLike, counted: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        numbers = np.asarray(values, dtype=np.float64)
        mask = np.ones_like(numbers) if counted is None else np.asarray(counted, dtype=np.float64)
        if numbers.shape != self._codes.shape or mask.shape != self._codes.shape:
            raise ValueError(f"have {len(self._codes)} observations but {numbers.shape} values and {mask.shape} marks")
        return np.where(mask > 0, numbers, 0.0), mask

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self._codes, weights=values, minlength=self._n_clusters).astype(np.float64)

    def _ratios(self, numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = []
        for weights in self._weights():
            below = weights @ denominators
            with np.errstate(invalid="ignore", divide="ignore"):
                parts.append(np.where(below > 0, weights @ numerators / below, np.nan))
        return np.concatenate(parts)

    def _weights(self) -> Iterator[NDArray[np.float64]]:
        """How often each cluster is resampled, in blocks of shape (resamples, clusters). The same at every call."""
        rng = np.random.default_rng(self._seed)
        block = max(1, BLOCK_CELLS // self._n_clusters)
        for start in range(0, self._resamples, block):
            draws = min(block, self._resamples - start)
            picked = rng.integers(self._n_clusters, size=(draws, self._n_clusters))
            picked += np.arange(draws)[:, None] * self._n_clusters
            counts = np.bincount(picked.ravel(), minlength=draws * self._n_clusters)
            yield counts.reshape(draws, self._n_clusters).astype(np.float64)

    def _percentiles(self, drawn: NDArray[np.float64]) -> tuple[float, float]:
        tail = 50 * (1 - self._confidence)
        low, high = np.nanpercentile(drawn, [tail, 100 - tail])
        return float(low), float(high)
