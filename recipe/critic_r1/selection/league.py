"""Round robin, for small N: everyone meets everyone once, and nobody is knocked out.

It obeys the rules in `knock_out`. Candidates with one answer enter as one, the best seed among them, so duplicates
never meet; candidates without a readable answer enter only where there are no others. A win is worth a point, a draw
half of one; most points win, and equal points go to the better seed. At most N(N - 1)/2 matches, and these hold the
round robins of all blocks, so the curve over N costs no more than its last point.

All matches are judged together, over all problems and all blocks, and a match of two blocks only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from recipe.critic_r1.selection.candidates import Candidate, Pool, Problem
from recipe.critic_r1.selection.knock_out import Bracket, blocks
from recipe.critic_r1.selection.matches import Match, MatchJudge


@dataclass
class _Field:
    """The entrants of one block, better seed first, and their points. A win counts 2 here, a draw 1.

    pool: place of the problem among the pools.
    level: of the bracket: the block holds 2^level candidates.
    requests: names of the judgements so far.
    """

    pool: int
    level: int
    problem: Problem
    entrants: list[Candidate]
    points: list[int] = field(init=False)
    requests: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.points = [0] * len(self.entrants)


def round_robin(
    pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0, largest: int | None = None
) -> list[Bracket]:
    """A round robin per block of each pool, all matches in one batch.

    Args:
        largest: blocks of more candidates are left out; None takes all.
    """
    brackets, fields = _fields(pools, seed, largest)
    _play([(f, a, b) for f in fields for a, b in combinations(range(len(f.entrants)), 2)], judge)
    return _filled(brackets, fields, [f.entrants[f.points.index(max(f.points))] for f in fields])


def _fields(pools: Sequence[Pool], seed: int, largest: int | None) -> tuple[list[Bracket], list[_Field]]:
    """Brackets with the seedings alone, and the fields of all blocks: pool by pool, level by level, in their order."""
    brackets = [Bracket.seeded(pool, seed) for pool in pools]
    fields = []
    for number, (pool, (seeded,)) in enumerate(zip(pools, brackets, strict=True)):
        for level in range(1, (len(seeded) - 1).bit_length() + 1):
            if largest is None or 1 << level <= largest:
                fields += [_Field(number, level, pool.problem, _one_per_answer(b)) for b in blocks(seeded, 1 << level)]
    return brackets, fields


def _one_per_answer(seeded: Sequence[Candidate]) -> list[Candidate]:
    """The best seed of each readable answer; the best seed of all when nothing is readable."""
    entrants: dict[str, Candidate] = {}
    for candidate in seeded:
        if candidate.answer is not None:
            entrants.setdefault(candidate.answer, candidate)
    return list(entrants.values()) or [seeded[0]]


def _play(pairs: Sequence[tuple[_Field, int, int]], judge: MatchJudge) -> None:
    """Play matches of many fields and write the points down. `pairs` name the better seed first."""
    matches: dict[tuple[int, int, int], Match] = {}
    names = []
    for f, a, b in pairs:
        first, second = f.entrants[a], f.entrants[b]
        names.append((f.pool, first.index, second.index))
        matches.setdefault(names[-1], Match(f.problem, first, second))
    outcomes = dict(zip(matches, judge.decide(list(matches.values())), strict=True))
    for (f, a, b), name in zip(pairs, names, strict=True):
        outcome = outcomes[name]
        f.points[a] += 1 + outcome.result
        f.points[b] += 1 - outcome.result
        f.requests.update(outcome.requests)


def _filled(brackets: list[Bracket], fields: Sequence[_Field], winners: Sequence[Candidate]) -> list[Bracket]:
    """Write winners and judgements into the brackets; the fields are in the order of `_fields`."""
    for f, winner in zip(fields, winners, strict=True):
        bracket = brackets[f.pool]
        if f.level == len(bracket):
            bracket.levels.append([])
            bracket.requests.append([])
        bracket.levels[f.level].append(winner)
        bracket.requests[f.level].append(frozenset(f.requests))
    return brackets
