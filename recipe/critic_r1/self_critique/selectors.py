"""Ways to pick one of N candidates, all measured on the same candidates.

Rules that every tournament here follows:
  - The *seeding* of a problem's candidates is a permutation drawn from (seed, problem id). Nothing that the policy or
    the sampler orders can leak into the bracket.
  - Candidates with the same final answer do not play each other: the better seed advances.
  - A candidate without a readable answer loses to one that has it, unplayed.
  - A draw goes to the better seed.

Knock-out pairs neighbours, round by round; with an odd number the last one rests. So the bracket of the first half is
the upper half of the whole bracket, and one tournament of N candidates also holds the winners of all its blocks of
2, 4, 8, ... candidates: the curve over N costs no judgement more than its last point, at most N - 1 matches.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from recipe.critic_r1.self_critique.candidates import Candidate, Pool
from recipe.critic_r1.self_critique.matches import Match, MatchJudge

Bracket = list[list[Candidate]]
"""Level k holds the winners of the blocks of 2^k neighbours; level 0 is the seeding, the last level one candidate."""


def seeding(pool: Pool, seed: int) -> list[Candidate]:
    """The candidates in the order drawn for them; earlier is the better seed."""
    order = list(pool.candidates)
    random.Random(f"{seed}\0{pool.problem.problem_id}").shuffle(order)
    return order


def knock_out(pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0) -> list[Bracket]:
    """A knock-out tournament per pool; the matches of a round are played together over all pools."""
    brackets: list[Bracket] = [[seeding(pool, seed)] for pool in pools]
    while any(len(bracket[-1]) > 1 for bracket in brackets):
        playing = [i for i, bracket in enumerate(brackets) if len(bracket[-1]) > 1]
        pairs = [(i, a, b) for i in playing for a, b in _neighbours(brackets[i][-1])]
        winners = _play([(pools[i], a, b) for i, a, b in pairs], judge)
        levels: dict[int, list[Candidate]] = {i: [] for i in playing}
        for (i, _, _), winner in zip(pairs, winners, strict=True):
            levels[i].append(winner)
        for i, level in levels.items():
            if len(brackets[i][-1]) % 2:
                level.append(brackets[i][-1][-1])
            brackets[i].append(level)
    return brackets


def round_robin(pools: Sequence[Pool], judge: MatchJudge, *, seed: int = 0) -> list[Candidate]:
    """Everyone plays everyone, once per pair of different answers: N(N - 1)/2 matches at most.

    A win is a point, a draw half of one. Each candidate plays on behalf of its answer, so points are counted per
    answer against each other answer; equal points go to the better seed.
    """
    fields = [_one_per_answer(seeding(pool, seed)) for pool in pools]
    pairs = [(i, a, b) for i, entrants in enumerate(fields) for a, b in combinations(entrants, 2)]
    results = judge.play([Match(pools[i].problem, a, b) for i, a, b in pairs])
    points = [[0] * len(entrants) for entrants in fields]
    places = [{c.index: place for place, c in enumerate(entrants)} for entrants in fields]
    for (i, a, b), result in zip(pairs, results, strict=True):
        points[i][places[i][a.index]] += 1 + result
        points[i][places[i][b.index]] += 1 - result
    # `index` finds the first of equal points, which is the better seed.
    return [entrants[won.index(max(won))] for entrants, won in zip(fields, points, strict=True)]


def majority(candidates: Sequence[Candidate]) -> Candidate:
    """A candidate with the most frequent readable answer; of equally frequent ones, the earliest."""
    counts = Counter(c.answer for c in candidates if c.answer is not None)
    return max(candidates, key=lambda c: counts[c.answer] if c.answer is not None else 0)


def oracle(candidates: Sequence[Candidate]) -> Candidate:
    """A right candidate if there is one: the ceiling of every selector."""
    return max(candidates, key=lambda c: c.correct)


def _neighbours(level: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    return list(zip(level[0::2], level[1::2], strict=False))


def _play(pairs: Sequence[tuple[Pool, Candidate, Candidate]], judge: MatchJudge) -> list[Candidate]:
    """Winners of matches between seeded candidates (`a` is the better seed); only real contests are judged."""
    winners: list[Candidate] = [a for _, a, _ in pairs]
    contests = []
    for place, (_, a, b) in enumerate(pairs):
        if a.answer is None and b.answer is not None:
            winners[place] = b
        elif a.answer is not None and b.answer is not None and a.answer != b.answer:
            contests.append(place)
    results = judge.play([Match(pairs[i][0].problem, *pairs[i][1:]) for i in contests])
    for place, result in zip(contests, results, strict=True):
        if result < 0:
            winners[place] = pairs[place][2]
    return winners


def _one_per_answer(seeded: Sequence[Candidate]) -> list[Candidate]:
    """The best seed of each readable answer; the best seed of all when nothing is readable."""
    entrants: dict[str, Candidate] = {}
    for candidate in seeded:
        if candidate.answer is not None:
            entrants.setdefault(candidate.answer, candidate)
    return list(entrants.values()) or [seeded[0]]
