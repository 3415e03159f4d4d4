"""Best-of-N as a curve over N, from one set of candidates.

The point at N is an average over all disjoint blocks of N neighbours in the seeding, not over the first N only: an
unbiased figure for "draw N, pick one" with less noise, and free, since a knock-out bracket holds the winners of its
blocks. The same blocks serve every selector, so the curves can be compared point by point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.self_critique.candidates import Candidate, Pool
from recipe.critic_r1.self_critique.selectors import Bracket, majority, oracle


@dataclass(frozen=True)
class Curve:
    """Share of right answers per N, for one selector."""

    selector: str
    points: dict[int, Estimate]

    def as_records(self) -> list[dict[str, float | int | None]]:
        """For JSON: one record per point with `n_candidates`, `value`, `low`, `high`, `n`."""
        return [{"n_candidates": size, **estimate.as_dict()} for size, estimate in self.points.items()]


@dataclass(frozen=True)
class BestOfN:
    """Right answers per problem and N for all selectors, and the figures drawn from them."""

    shares: dict[str, dict[int, NDArray[np.float64]]]
    """selector -> N -> per problem the share of its blocks in which the pick is right."""
    bootstrap: ClusterBootstrap

    def curves(self) -> list[Curve]:
        """One curve per selector."""
        return [
            Curve(selector, {size: self.bootstrap.rate(shares) for size, shares in by_size.items()})
            for selector, by_size in self.shares.items()
        ]

    def at(self, selector: str, size: int) -> Estimate:
        """A point of a curve."""
        return self.bootstrap.rate(self.shares[selector][size])

    def gain(self, selector: str, other: str, size: int, other_size: int | None = None) -> Estimate:
        """Right answers of one selector at `size` minus those of another, paired by picture."""
        return self.bootstrap.difference(
            self.shares[selector][size], self.shares[other][size if other_size is None else other_size]
        )


def measure(pools: Sequence[Pool], brackets: Sequence[Bracket], *, seed: int = 0) -> BestOfN:
    """Measure knock-out against one sample, majority and oracle on the same blocks of candidates.

    Args:
        pools: problems with N candidates each, N the same power of two for all.
        brackets: of `knock_out` for these pools.

    Raises:
        ValueError: the pools differ in size, or the size is no power of two.
    """
    sizes = {len(pool.candidates) for pool in pools}
    if len(sizes) != 1 or (top := sizes.pop()) & (top - 1):
        raise ValueError("curves need the same power of two of candidates for each problem")
    shares: dict[str, dict[int, NDArray[np.float64]]] = {
        name: {} for name in ("knock_out", "one_sample", "majority", "oracle")
    }
    for level in range(top.bit_length()):
        size = 1 << level
        blocks = [_blocks(bracket[0], size) for bracket in brackets]
        picks = {
            "knock_out": [bracket[level] for bracket in brackets],
            "one_sample": [bracket[0] for bracket in brackets],
            "majority": [[majority(block) for block in row] for row in blocks],
            "oracle": [[oracle(block) for block in row] for row in blocks],
        }
        for name, picked in picks.items():
            shares[name][size] = np.array([np.mean([c.correct for c in row]) for row in picked])
    clusters = [pool.problem.picture_sha256 for pool in pools]
    return BestOfN(shares, ClusterBootstrap(clusters, seed=seed))


def _blocks(seeded: Sequence[Candidate], size: int) -> list[Sequence[Candidate]]:
    return [seeded[start : start + size] for start in range(0, len(seeded), size)]
