"""Ways to pick one of N candidates, all measured on the same candidates.

Rules of every tournament here and in `league`:
  - The *seeding* of a problem's candidates is a permutation drawn from (seed, problem id), so the order in which the
    policy produced them cannot influence the bracket.
  - Candidates with the same final answer do not play each other: the better seed advances.
  - A candidate without a readable answer loses to one that has one, without a match.
  - A draw goes to the better seed.

Knock-out pairs neighbours, round by round; of an odd number the last one advances without a match. So the bracket of
the first half is the upper half of the bracket, and a tournament of N candidates contains those of all its blocks of 2,
4, 8, ... candidates: the curve over N needs no more judgements than its last point, at most N - 1 matches.

Self-consistency-weighted knock-out (our own) adds the frequency of the answers:
  - An answer's *support* in a match is the number of candidates with that answer in the block that the match decides,
    those already knocked out included. The block grows with the rounds, so the curve over N is free here too.
  - The candidate with more support has a lead of log2(support / support of the other) votes: an answer given twice as
    often is worth one vote of the critic. This is Bayes' rule for a critic that is right two times out of three.
  - A lead of more than the two votes of both orders (more than 4 to 1) wins without a match.
  - When votes and lead add up to zero, there is a third judgement, as for equal votes in a plain match.
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
"""(block that the match decides, a, b) -> votes by which ``a`` is ahead before the match."""


_NOTHING: frozenset[str] = frozenset()


@dataclass
class Bracket:
    """The winners of a tournament in each block of neighbours in the seeding.

    levels: level k has the winners of the blocks of 2^k; level 0 is the seeding.
    requests: for the same blocks, keys of the judgements of the block's own tournament (see `MatchOutcome`).
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
    """The candidates in their seeding, best seed first."""
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
    """A knock-out in which an answer's support in the block counts as votes."""
    return _knock_out(pools, judge, seed, support_lead)


def support_lead(block: Sequence[Candidate], a: Candidate, b: Candidate) -> float:
    """log2 of the ratio of how often `a`'s and `b`'s answers occur in the block."""
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
            # The better seeds, until a match says otherwise, and the last of an odd number.
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
    """The first candidate with the most frequent readable answer."""
    counts = Counter(c.answer for c in candidates if c.answer is not None)
    return max(candidates, key=lambda c: counts[c.answer] if c.answer is not None else 0)


def oracle(candidates: Sequence[Candidate]) -> Candidate:
    """A correct candidate if there is one: the ceiling of every selector."""
    return max(candidates, key=lambda c: c.correct)
