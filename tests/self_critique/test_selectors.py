"""Tournaments: who wins, how many judgements it takes, and what must not matter."""

import random
from itertools import pairwise
from typing import Any

import pytest

from recipe.critic_r1.self_critique.selectors import knock_out, majority, oracle, round_robin, seeding


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
        assert [winner.answer for winner in above] == [max(c.answer for c in block) for block in blocks]


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
    assert round_robin([made], referee(critic(rules[rule])), seed=3) == [seeding(made, 3)[0]]


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


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_round_robin_plays_every_pair_once(pool: Any, critic: Any, referee: Any, rules: Any, n: int) -> None:
    judge = referee(critic(rules["largest"]))
    (winner,) = round_robin([pool("a", range(n))], judge)
    assert winner.answer == str(n - 1)
    assert judge.bill.matches == n * (n - 1) // 2


def test_round_robin_survives_a_cycle(pool: Any, critic: Any, referee: Any) -> None:
    """Rock, paper, scissors: equal points go to the better seed."""

    def beats(first: str, second: str, request: Any) -> str:
        return f"<think>.</think>\\boxed{{{1 if (int(first) - int(second)) % 3 == 1 else 2}}}"

    made = pool("a", range(3))
    assert round_robin([made], referee(critic(beats)), seed=9) == [seeding(made, 9)[0]]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([1, 2, 2, 3], 1), ([3, 1, 1, 3], 0), ([None, None, 4], 2), ([None, None], 0), ([5], 0)],
)
def test_majority(pool: Any, answers: list[Any], expected: int) -> None:
    assert majority(pool("a", answers).candidates).index == expected


def test_oracle(pool: Any) -> None:
    assert oracle(pool("a", [1, 2, 3], truth=3).candidates).index == 2
    assert not oracle(pool("a", [1, 2, 3], truth=4).candidates).correct
