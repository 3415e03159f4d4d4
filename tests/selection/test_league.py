"""Round robin: who wins, who meets whom, and how many judgements it takes."""

import random
from typing import Any

import pytest

from recipe.critic_r1.selection.knock_out import blocks, seeding
from recipe.critic_r1.selection.league import round_robin


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_round_robin_plays_every_pair_once(pool: Any, critic: Any, referee: Any, rules: Any, n: int) -> None:
    """Exactly once, although the smaller blocks are measured too."""
    generator = critic(rules["largest"])
    judge = referee(generator)
    (bracket,) = round_robin([pool("a", range(n))], judge)
    assert bracket[-1][0].answer == str(n - 1)
    assert judge.bill.matches == n * (n - 1) // 2
    assert len(generator.requests) == n * (n - 1)
    assert len(generator.batches) == (n > 1), "all in one batch"


def test_round_robin_survives_a_cycle(pool: Any, critic: Any, referee: Any) -> None:
    """Rock, paper, scissors: equal points go to the better seed."""

    def beats(first: str, second: str, request: Any) -> str:
        return f"<think>.</think>\\boxed{{{1 if (int(first) - int(second)) % 3 == 1 else 2}}}"

    made = pool("a", range(3))
    (bracket,) = round_robin([made], referee(critic(beats)), seed=9)
    assert bracket[-1] == [seeding(made, 9)[0]]


@pytest.mark.parametrize(("rule", "per_match"), [("largest", 2), ("first", 3), ("unreadable", 3)])
def test_nobody_meets_anybody_twice_or_an_equal(
    pool: Any, critic: Any, referee: Any, rules: Any, rule: str, per_match: int
) -> None:
    """A second meeting would ask for judgements that are known, so the block would name fewer of them."""
    for seed in range(20):
        answers = [*random.Random(seed).choices([1, 2, 3, None], k=7), *range(10, 12 + seed % 3)]
        entrants = len({a for a in answers if a is not None})
        generator = critic(rules[rule])
        (bracket,) = round_robin([pool("a", answers)], referee(generator, seed=seed), seed=seed)
        assert len(bracket.requests[-1][0]) == per_match * entrants * (entrants - 1) // 2
        assert all(first != second for first, second in generator.pairs)


def test_draws_go_to_the_better_seed(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """Four entrants, all matches drawn: nothing but the seeding speaks."""
    made = pool("a", range(4))
    (bracket,) = round_robin([made], referee(critic(rules["unreadable"])), seed=3)
    assert bracket[-1] == [seeding(made, 3)[0]]


def test_duplicates_and_unreadable_ones(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    (bracket,) = round_robin([pool("a", [7, 7, None, 7])], referee(generator))
    assert bracket[-1][0].answer == "7"
    (bracket,) = round_robin([pool("b", [None, None])], referee(generator), seed=5)
    assert bracket[-1] == [bracket[0][0]]
    assert generator.requests == []


def test_every_block_has_the_tournament_it_would_have_alone(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    made = pool("a", range(8))
    (bracket,) = round_robin([made], referee(critic(rules["largest"])))
    assert [len(level) for level in bracket] == [8, 4, 2, 1]
    for level, row in enumerate(bracket):
        assert [c.answer for c in row] == [
            max(c.answer or "" for c in block) for block in blocks(bracket[0], 1 << level)
        ]


def test_large_blocks_can_be_left_out(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    judge = referee(critic(rules["largest"]))
    brackets = round_robin([pool("a", range(16)), pool("b", range(2))], judge, largest=4)
    assert [[len(level) for level in b] for b in brackets] == [[16, 8, 4], [2, 1]]
    # Four blocks of four with all six pairs at most, and one pair.
    assert judge.bill.judgements <= 2 * (4 * 6 + 1)
