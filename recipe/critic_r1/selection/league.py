"""Round robin, for small N: every candidate meets every other once, and none is knocked out.

The rules of `knock_out` apply: candidates with the same answer enter as one, the best seed among them, and candidates
without a readable answer only when no other has one. A win scores 1 and a draw 0.5; the highest total wins, and ties go
to the better seed. There are at most N(N - 1)/2 matches, which include the round robins of all blocks, so the curve
over N costs no more than its last point.

All matches are judged in one batch, over all problems and blocks, and a match that several blocks share only once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from recipe.critic_r1.selection.candidates import Candidate, Pool
from recipe.critic_r1.selection.knock_out import Bracket, blocks
from recipe.critic_r1.selection.matches import Match, MatchJudge


def round_robin(
    pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0, largest: int | None = None
) -> list[Bracket]:
    """A round robin per block of each pool.

    Args:
        largest: blocks of more candidates are left out; None takes all.
    """
    brackets = [Bracket.seeded(pool, seed) for pool in pools]
    fields: list[tuple[int, int, list[Candidate]]] = []  # number of the pool, level of the block, entrants
    for number, bracket in enumerate(brackets):
        for level in range(1, (len(bracket[0]) - 1).bit_length() + 1):
            if largest is None or 1 << level <= largest:
                bracket.levels.append([])
                bracket.requests.append([])
                fields += [(number, level, _one_per_answer(block)) for block in blocks(bracket[0], 1 << level)]
    matches = {
        (number, a.index, b.index): Match(pools[number].problem, a, b)
        for number, _, entrants in fields
        for a, b in combinations(entrants, 2)
    }
    outcomes = dict(zip(matches, judge.decide(list(matches.values())), strict=True))
    for number, level, entrants in fields:
        points: Counter[int] = Counter()  # a win counts 2, a draw 1
        requests: set[str] = set()
        for a, b in combinations(entrants, 2):
            outcome = outcomes[number, a.index, b.index]
            points[a.index] += 1 + outcome.result
            points[b.index] += 1 - outcome.result
            requests.update(outcome.requests)
        # Of equal points the first, which is the better seed.
        brackets[number].levels[level].append(max(entrants, key=lambda entrant: points[entrant.index]))
        brackets[number].requests[level].append(frozenset(requests))
    return brackets


def _one_per_answer(seeded: Sequence[Candidate]) -> list[Candidate]:
    """The best seed of each readable answer; the best seed of all when nothing is readable."""
    entrants: dict[str, Candidate] = {}
    for candidate in seeded:
        if candidate.answer is not None:
            entrants.setdefault(candidate.answer, candidate)
    return list(entrants.values()) or [seeded[0]]
