"""Tournaments: who wins, how many judgements it takes, and what must not matter."""

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from recipe.critic_r1.selection.candidates import Candidate
from recipe.critic_r1.selection.knock_out import (
    blocks,
    knock_out,
    majority,
    oracle,
    seeding,
    support_lead,
    weighted_knock_out,
)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 32])
def test_knock_out_finds_the_best_in_n_minus_1_matches(
    pool: Any, critic: Any, referee: Any, rules: Any, n: int
) -> None:
    """All answers differ and the critic is perfect: exactly N - 1 matches of two judgements each."""
    pools = [pool(f"p{i}", random.Random(i).sample(range(1000), n)) for i in range(5)]
    generator = critic(rules["largest"])
    judge = referee(generator)
    brackets = knock_out(pools, judge, seed=4)
    assert [b[-1][0].answer for b in brackets] == [max((c.answer for c in p.candidates), key=float) for p in pools]
    assert judge.bill.matches == 5 * (n - 1)
    assert len(generator.requests) == 5 * 2 * (n - 1)
    assert len(generator.batches) == (n - 1).bit_length(), "one batch per round, over all problems"


def test_problems_of_different_size_share_their_rounds(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    brackets = knock_out([pool("a", range(8)), pool("b", range(3)), pool("c", [5])], referee(generator))
    assert [b[-1][0].answer for b in brackets] == ["7", "2", "5"]
    assert generator.batches == [2 * (4 + 1), 2 * (2 + 1), 2 * 1]


def test_each_level_halves_and_keeps_its_blocks(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    (bracket,) = knock_out([pool("a", range(8))], referee(critic(rules["largest"])))
    assert [len(level) for level in bracket] == [8, 4, 2, 1]
    for below, above in pairwise(bracket):
        blocks = [below[i : i + 2] for i in range(0, len(below), 2)]
        assert [winner.answer for winner in above] == [max(c.answer or "" for c in block) for block in blocks]


def test_duplicates_do_not_play_each_other(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    judge = referee(generator)
    (bracket,) = knock_out([pool("a", [7, 7, 7, 7, 7, 7, 7, 7])], judge)
    assert generator.requests == []
    assert bracket[-1] == [bracket[0][0]], "the better seed advances"


@pytest.mark.parametrize("seed", range(6))
def test_duplicates_only_save_judgements(pool: Any, critic: Any, referee: Any, rules: Any, seed: int) -> None:
    answers = random.Random(seed).choices(range(4), k=16)
    judge = referee(critic(rules["largest"]))
    (bracket,) = knock_out([pool("a", answers)], judge, seed=seed)
    assert bracket[-1][0].answer == str(max(answers))
    assert judge.bill.matches < 15
    assert judge.bill.judgements <= 2 * min(judge.bill.matches, 4 * 3 // 2)


def test_an_unreadable_answer_loses_unplayed(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    for seed in range(8):
        (bracket,) = knock_out([pool("a", [None, None, None, 4])], referee(generator), seed=seed)
        assert bracket[-1][0].answer == "4"
    (bracket,) = knock_out([pool("a", [None, None])], referee(generator))
    assert bracket[-1] == [bracket[0][0]]
    assert generator.requests == []


@pytest.mark.parametrize("rule", ["unreadable", "failing"])
def test_draws_go_to_the_better_seed(pool: Any, critic: Any, referee: Any, rules: Any, rule: str) -> None:
    made = pool("a", range(8))
    (bracket,) = knock_out([made], referee(critic(rules[rule])), seed=3)
    assert bracket[-1] == [seeding(made, 3)[0]]
    (bracket,) = weighted_knock_out([made], referee(critic(rules[rule])), seed=3)
    assert bracket[-1] == [seeding(made, 3)[0]]


def test_the_seeding_is_drawn_per_problem_and_seed(pool: Any) -> None:
    first = [c.index for c in seeding(pool("a", range(8)), 0)]
    assert sorted(first) == list(range(8))
    assert first == [c.index for c in seeding(pool("a", range(100, 108)), 0)]
    assert first != [c.index for c in seeding(pool("b", range(8)), 0)]
    assert first != [c.index for c in seeding(pool("a", range(8)), 1)]


def test_a_biased_critic_gains_no_more_than_chance(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """A critic that always takes the first place picks the right one of 8 about once in 8: both orders cancel it."""
    pools = [pool(f"p{i}", range(8), truth=7) for i in range(400)]
    brackets = knock_out(pools, referee(critic(rules["first"])), seed=0)
    assert 25 <= sum(b[-1][0].correct for b in brackets) <= 75


@pytest.mark.parametrize(
    ("block", "a", "b", "lead"),
    [([1, 2], 1, 2, 0), ([1, 1, 2], 1, 2, 1), ([1, 2, 2, 2, 2, None], 1, 2, -2), ([1, 1, 1, 2, 2, 2, 3], 1, 2, 0)],
)
def test_support_is_worth_a_vote_per_doubling(pool: Any, block: list[Any], a: int, b: int, lead: float) -> None:
    candidates = pool("a", block).candidates
    by_answer = {c.answer: c for c in candidates}
    assert support_lead(candidates, by_answer[str(a)], by_answer[str(b)]) == lead


def test_without_repetitions_the_weighted_knock_out_is_the_plain_one(
    pool: Any, critic: Any, referee: Any, rules: Any
) -> None:
    pools = [pool(f"p{i}", random.Random(i).sample(range(100), 8)) for i in range(20)]
    for rule in ("largest", "first", "unreadable"):
        plain = knock_out(pools, referee(critic(rules[rule])), seed=2)
        assert weighted_knock_out(pools, referee(critic(rules[rule])), seed=2) == plain


def test_support_breaks_a_flip_without_a_third_judgement(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """3 twice against 8 once: a critic without an opinion leaves it to the repetitions."""
    pools = [pool(f"p{i}", [3, 3, 8, 8 + i]) for i in range(1, 40)]
    judge = referee(critic(rules["first"]))
    brackets = weighted_knock_out(pools, judge)
    assert sum("3" in _finalists(b) for b in brackets) > 20
    assert all(b[-1][0].answer == "3" for b in brackets if "3" in _finalists(b))


def _finalists(bracket: Any) -> set[str]:
    return {c.answer for c in bracket[-2]}


def test_a_unanimous_critic_overrules_a_lead_of_less_than_two_votes(
    pool: Any, critic: Any, referee: Any, rules: Any
) -> None:
    for seed in range(10):
        (bracket,) = weighted_knock_out([pool("a", [1, 1, 1, 8])], referee(critic(rules["largest"])), seed=seed)
        assert bracket[-1][0].answer == "8"


def test_a_lead_beyond_the_votes_is_not_played(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """Seven to one in the last match: the right answer of a perfect critic loses, and the match is not played."""
    for seed in range(10):
        made = [pool("a", [1, 1, 1, 1, 1, 1, 1, 8])]
        weighted, plain = referee(critic(rules["largest"])), referee(critic(rules["largest"]))
        assert weighted_knock_out(made, weighted, seed=seed)[0][-1][0].answer == "1"
        assert knock_out(made, plain, seed=seed)[0][-1][0].answer == "8"
        assert (weighted.bill.matches, plain.bill.matches) == (2, 3)


def test_the_weighted_bracket_holds_its_blocks(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """A block's winner is the winner of a tournament of that block alone: the curve over N is free."""
    answers = random.Random(5).choices([1, 2, 3, None], k=16)
    made = pool("a", answers)
    (bracket,) = weighted_knock_out([made], referee(critic(rules["first"]), seed=1), seed=1)
    for size in (2, 4, 8):
        for place, block in enumerate(blocks(bracket[0], size)):
            alone = _as_seeded(made, block)
            (own,) = weighted_knock_out([alone], referee(critic(rules["first"]), seed=1), seed=1)
            assert own[-1][0].answer == bracket[size.bit_length() - 1][place].answer


def _as_seeded(made: Any, block: Any) -> Any:
    """A pool whose seeding is the block."""
    places = [c.index for c in seeding(replace(made, candidates=_numbered(len(block))), 1)]
    candidates = [None] * len(block)
    for place, candidate in zip(places, block, strict=True):
        candidates[place] = candidate
    return replace(made, candidates=tuple(candidates))


def _numbered(count: int) -> tuple[Candidate, ...]:
    return tuple(Candidate(i, "", None, "", False) for i in range(count))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([1, 2, 2, 3], 1), ([3, 1, 1, 3], 0), ([None, None, 4], 2), ([None, None], 0), ([5], 0)],
)
def test_majority(pool: Any, answers: list[Any], expected: int) -> None:
    assert majority(pool("a", answers).candidates).index == expected


def test_oracle(pool: Any) -> None:
    assert oracle(pool("a", [1, 2, 3], truth=3).candidates).index == 2
    assert not oracle(pool("a", [1, 2, 3], truth=4).candidates).correct
