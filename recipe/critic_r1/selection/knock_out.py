"""Ways to pick one of N candidates, all measured on the same candidates.

Rules that every tournament here and in `tables` follows:
  - The *seeding* of a problem's candidates is a permutation drawn from (seed, problem id). Nothing that the policy or
    the sampler orders can leak into the bracket.
  - Candidates with the same final answer do not play each other: the better seed advances.
  - A candidate without a readable answer loses to one that has it, unplayed.
  - A draw goes to the better seed.

Knock-out pairs neighbours, round by round; with an odd number the last one rests. So the bracket of the first half is
the upper half of the whole bracket, and one tournament of N candidates also holds the winners of all its blocks of
2, 4, 8, ... candidates: the curve over N costs no judgement more than its last point, at most N - 1 matches.

Self-consistency-weighted knock-out (our own) adds what the policy's repetitions say:
  - An answer's *support* in a match is the number of candidates that have it in the block that the match decides,
    those already knocked out included. The block grows with the rounds, so the curve over N is free here too.
  - The candidate with more support has a lead of log2(support / support of the other) votes: an answer given twice as
    often is worth one vote of the critic. That is Bayes' rule for a critic who is right two times in three.
  - A lead of more than the two votes that both orders can give (more than 4 to 1) cannot be made up: unplayed.
  - Votes and lead that cancel out to nought go to the third judgement, as equal votes do in a plain match.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from recipe.critic_r1.selection.candidates import Candidate, Pool
from recipe.critic_r1.selection.matches import MOST_VOTES, Match, MatchJudge

Lead = Callable[[Sequence[Candidate], Candidate, Candidate], float]
"""Votes by which the first of two candidates is ahead, given the block that their match decides."""


_NOTHING: frozenset[str] = frozenset()


@dataclass
class Bracket:
    """What a tournament picked from each block of neighbours in the seeding.

    levels: level k holds the picks from the blocks of 2^k; level 0 is the seeding.
    requests: for the same blocks, names of the judgements that the block's own tournament takes (see `Outcome`).
    """

    levels: list[list[Candidate]]
    requests: list[list[frozenset[str]]]

    @classmethod
    def seeded(cls, pool: Pool, seed: int) -> Bracket:
        """The seeding alone."""
        order = seeding(pool, seed)
        return cls([order], [[_NOTHING] * len(order)])

    def __getitem__(self, level: int) -> list[Candidate]:
        return self.levels[level]

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[list[Candidate]]:
        return iter(self.levels)


def seeding(pool: Pool, seed: int) -> list[Candidate]:
    """The candidates in the order drawn for them; earlier is the better seed."""
    order = list(pool.candidates)
    random.Random(f"{seed}\0{pool.problem.problem_id}").shuffle(order)
    return order


def blocks(seeded: Sequence[Candidate], size: int) -> list[Sequence[Candidate]]:
    """The candidates in blocks of `size` neighbours; the last may be smaller."""
    return [seeded[start : start + size] for start in range(0, len(seeded), size)]


def knock_out(pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0) -> list[Bracket]:
    """A knock-out tournament per pool; the matches of a round are played together over all pools."""
    return _knock_out(pools, judge, seed, lambda block, a, b: 0.0)


def weighted_knock_out(pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0) -> list[Bracket]:
    """A knock-out in which an answer's support in the block counts as votes; rules above."""
    return _knock_out(pools, judge, seed, support_lead)


def support_lead(block: Sequence[Candidate], a: Candidate, b: Candidate) -> float:
    """log2 of how many times more often the block holds the answer of `a` than that of `b`."""
    support = Counter(candidate.answer for candidate in block)
    return math.log2(support[a.answer] / support[b.answer])


def _knock_out(pools: Sequence[Pool], judge: MatchJudge, seed: int, lead: Lead) -> list[Bracket]:
    brackets = [Bracket.seeded(pool, seed) for pool in pools]
    size = 1
    while playing := [(pool, b) for pool, b in zip(pools, brackets, strict=True) if len(b[-1]) > 1]:
        size *= 2
        contests: list[tuple[list[Candidate], list[frozenset[str]], int, Match, float]] = []
        for pool, bracket in playing:
            below, paid = bracket[-1], bracket.requests[-1]
            # The better seeds, until a match says otherwise; with an odd number the one that rests is among them.
            row = list(below[0::2])
            names = [one.union(other) for one, other in zip_longest(paid[0::2], paid[1::2], fillvalue=_NOTHING)]
            for place, (block, a, b) in enumerate(
                zip(blocks(bracket[0], size), below[0::2], below[1::2], strict=False)
            ):
                if b.answer is None or a.answer == b.answer:
                    continue
                ahead = 0.0 if a.answer is None else lead(block, a, b)
                if a.answer is None or ahead < -MOST_VOTES:
                    row[place] = b
                elif ahead <= MOST_VOTES:
                    contests.append((row, names, place, Match(pool.problem, a, b), ahead))
            bracket.levels.append(row)
            bracket.requests.append(names)
        outcomes = judge.decide([match for *_, match, _ in contests], [ahead for *_, ahead in contests])
        for (row, names, place, match, _), outcome in zip(contests, outcomes, strict=True):
            if outcome.result < 0:
                row[place] = match.b
            names[place] = names[place].union(outcome.requests)
    return brackets


def majority(candidates: Sequence[Candidate]) -> Candidate:
    """A candidate with the most frequent readable answer; of equally frequent ones, the earliest."""
    counts = Counter(c.answer for c in candidates if c.answer is not None)
    return max(candidates, key=lambda c: counts[c.answer] if c.answer is not None else 0)


def oracle(candidates: Sequence[Candidate]) -> Candidate:
    """A right candidate if there is one: the ceiling of every selector."""
    return max(candidates, key=lambda c: c.correct)
