"""Best-of-N as a curve over N, from one set of candidates.

The point at N is the mean over all disjoint blocks of N neighbours in the seeding, not over the first N only: an
unbiased estimate of "sample N, pick one" with less noise, at no cost, since a knock-out bracket has the winners of its
blocks. All selectors are measured on the same blocks, so the curves can be compared point by point.

Given the judge of the matches, a point also says what it costs (see `costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.selection.candidates import Pool
from recipe.critic_r1.selection.costs import PointCost, sampling_cost, tournament_cost
from recipe.critic_r1.selection.knock_out import Bracket, blocks, majority, oracle
from recipe.critic_r1.selection.matches import MatchJudge


@dataclass(frozen=True)
class Curve:
    """Accuracy per N, for one selector.

    costs: per N the fields of `PointCost.as_dict` and `tokens_per_point`; empty without a judge.
    """

    selector: str
    points: dict[int, Estimate]
    costs: dict[int, dict[str, float | None]] = field(default_factory=dict)

    def as_records(self) -> list[dict[str, float | int | None]]:
        """For JSON: one record per point with `n_candidates`, `value`, `low`, `high`, `n`, and its costs."""
        return [
            {"n_candidates": size, **estimate.as_dict(), **self.costs.get(size, {})}
            for size, estimate in self.points.items()
        ]


@dataclass(frozen=True)
class BestOfNCurve:
    """Accuracy per problem and N for all selectors, and its estimates."""

    shares: dict[str, dict[int, NDArray[np.float64]]]
    """selector -> N -> per problem the share of its blocks in which the pick is correct."""
    bootstrap: ClusterBootstrap
    costs: dict[str, dict[int, PointCost]] = field(default_factory=dict)
    """selector -> N -> cost; empty without a judge."""

    def curves(self) -> list[Curve]:
        """One curve per selector."""
        return [
            Curve(
                selector,
                {size: self.bootstrap.rate(shares) for size, shares in by_size.items()},
                {size: self._cost(selector, size) for size in by_size} if self.costs else {},
            )
            for selector, by_size in self.shares.items()
        ]

    def _cost(self, selector: str, size: int) -> dict[str, float | None]:
        cost = self.costs[selector][size]
        gain = float(np.mean(self.shares[selector][size]) - np.mean(self.shares["one_sample"][size]))
        return {**cost.as_dict(), "tokens_per_point": cost.tokens_per_point(self.costs["one_sample"][size], gain)}

    def at(self, selector: str, size: int) -> Estimate:
        """A point of a curve."""
        return self.bootstrap.rate(self.shares[selector][size])

    def gain(self, selector: str, other: str, size: int, other_size: int | None = None) -> Estimate:
        """Accuracy of one selector at `size` minus that of another, paired by image."""
        return self.bootstrap.difference(
            self.shares[selector][size], self.shares[other][size if other_size is None else other_size]
        )


def measure(
    pools: Sequence[Pool],
    brackets: Sequence[Bracket],
    *,
    others: Mapping[str, Sequence[Bracket]] | None = None,
    judge: MatchJudge | None = None,
    seed: int = 0,
) -> BestOfNCurve:
    """Measure tournaments against one sample, majority and oracle on the same blocks of candidates.

    Args:
        pools: problems with N candidates each, N the same power of two for all.
        brackets: of `knock_out` for these pools.
        others: name -> brackets of another tournament for these pools with the same seeding; it may end at a smaller N.
        judge: the judge of all these matches; without it, the points have no costs.

    Raises:
        ValueError: the pools differ in size, or the size is not a power of two.
    """
    sizes = {len(pool.candidates) for pool in pools}
    if len(sizes) != 1 or (top := sizes.pop()) & (top - 1):
        raise ValueError("curves need the same power of two of candidates for each problem")
    tournaments = {"knock_out": brackets, **(others or {})}
    names = ("knock_out", "one_sample", "majority", "oracle", *(others or {}))
    shares: dict[str, dict[int, NDArray[np.float64]]] = {name: {} for name in names}
    costs: dict[str, dict[int, PointCost]] = {name: {} for name in names}
    for level in range(top.bit_length()):
        size = 1 << level
        rows = [blocks(bracket[0], size) for bracket in brackets]
        picks: dict[str, Any] = {
            "one_sample": [bracket[0] for bracket in brackets],
            "majority": [[majority(block) for block in row] for row in rows],
            "oracle": [[oracle(block) for block in row] for row in rows],
        }
        played = {name: found for name, found in tournaments.items() if level < len(found[0])}
        picks |= {name: [bracket[level] for bracket in found] for name, found in played.items()}
        for name, picked in picks.items():
            shares[name][size] = np.array([np.mean([c.correct for c in row]) for row in picked])
            if judge is not None and name in played:
                costs[name][size] = tournament_cost(pools, played[name], level, judge)
            elif judge is not None:
                costs[name][size] = sampling_cost(pools, 1 if name == "one_sample" else size)
    clusters = [pool.problem.image_blake3 for pool in pools]
    return BestOfNCurve(shares, ClusterBootstrap(clusters, seed=seed), costs if judge is not None else {})
