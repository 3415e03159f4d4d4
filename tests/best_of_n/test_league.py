"""Round robin and Swiss: who wins, who meets whom, and how many judgements it takes."""

import random
from typing import Any

import pytest

from recipe.critic_r1.best_of_n.knock_out import blocks, seeding
from recipe.critic_r1.best_of_n.league import round_robin, swiss


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


@pytest.mark.parametrize("n", range(1, 18))
def test_swiss_finds_the_best_of_a_perfect_critic(pool: Any, critic: Any, referee: Any, rules: Any, n: int) -> None:
    pools = [pool(f"p{i}", random.Random(i).sample(range(1000), n)) for i in range(40)]
    generator = critic(rules["largest"])
    brackets = swiss(pools, referee(generator), seed=n)
    assert [b[-1][0].answer for b in brackets] == [max((c.answer for c in p.candidates), key=float) for p in pools]
    rounds = (n - 1).bit_length()
    assert len(generator.batches) <= rounds, "one batch per round, over all problems and blocks"
    assert all(len(b.requests[-1][0]) <= 2 * (n // 2) * rounds for b in brackets)
    assert all(len(b) == rounds + 1 for b in brackets)


@pytest.mark.parametrize(("rule", "per_match"), [("largest", 2), ("first", 3), ("unreadable", 3)])
def test_nobody_meets_anybody_twice_or_an_equal(
    pool: Any, critic: Any, referee: Any, rules: Any, rule: str, per_match: int
) -> None:
    """A second meeting would ask for judgements that are known, so the block would name fewer of them."""
    for seed in range(20):
        answers = [*random.Random(seed).choices([1, 2, 3, None], k=7), *range(10, 12 + seed % 3)]
        entrants = len({a for a in answers if a is not None})
        for tournament, matches in (
            (swiss, entrants // 2 * (entrants - 1).bit_length()),
            (round_robin, entrants * (entrants - 1) // 2),
        ):
            generator = critic(rules[rule])
            (bracket,) = tournament([pool("a", answers)], referee(generator, seed=seed), seed=seed)
            assert len(bracket.requests[-1][0]) == per_match * matches
            assert all(first != second for first, second in generator.pairs)


def test_swiss_pairs_winners_with_winners(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    made = pool("a", [1, 2, 3, 4])
    (bracket,) = swiss([made], referee(generator), seed=0)
    first, second = generator.pairs[: generator.batches[0]], generator.pairs[generator.batches[0] :]
    order = [c.answer for c in bracket[0]]
    winners = {max(order[:2], key=float), max(order[2:], key=float)}
    # Round one has the first seeds of the block of four: the first with the second, the third with the fourth.
    assert {frozenset(p) for p in first} == {frozenset(order[:2]), frozenset(order[2:])}
    assert {frozenset(p) for p in second} == {frozenset(winners), frozenset(set(order) - winners)}


def test_equal_points_go_to_whom_met_the_stronger_field(pool: Any, critic: Any, referee: Any) -> None:
    """Seeds 1 and 3 win once and draw with each other; seed 4, whom seed 3 beat, is better than seed 2."""
    made = pool("a", range(4))
    seed_of = {c.answer: place for place, c in enumerate(seeding(made, 0), start=1)}
    better = {frozenset({1, 2}): 1, frozenset({3, 4}): 3, frozenset({2, 4}): 4}

    def judge(first: str, second: str, request: Any) -> str:
        winner = better.get(frozenset({seed_of[first], seed_of[second]}))
        return f"<think>.</think>\\boxed{{{1 if winner == seed_of[first] else 2}}}" if winner else "hm"

    (bracket,) = swiss([made], referee(critic(judge)), seed=0)
    assert seed_of[bracket[-1][0].answer] == 3


@pytest.mark.parametrize("tournament", [swiss, round_robin])
def test_draws_go_to_the_better_seed(pool: Any, critic: Any, referee: Any, rules: Any, tournament: Any) -> None:
    """Four entrants, all matches drawn: nothing but the seeding speaks."""
    made = pool("a", range(4))
    (bracket,) = tournament([made], referee(critic(rules["unreadable"])), seed=3)
    assert bracket[-1] == [seeding(made, 3)[0]]


@pytest.mark.parametrize("tournament", [swiss, round_robin])
def test_duplicates_and_unreadable_ones(pool: Any, critic: Any, referee: Any, rules: Any, tournament: Any) -> None:
    generator = critic(rules["largest"])
    (bracket,) = tournament([pool("a", [7, 7, None, 7])], referee(generator))
    assert bracket[-1][0].answer == "7"
    (bracket,) = tournament([pool("b", [None, None])], referee(generator), seed=5)
    assert bracket[-1] == [bracket[0][0]]
    assert generator.requests == []


@pytest.mark.parametrize("tournament", [swiss, round_robin])
def test_every_block_has_the_tournament_it_would_have_alone(
    pool: Any, critic: Any, referee: Any, rules: Any, tournament: Any
) -> None:
    made = pool("a", range(8))
    (bracket,) = tournament([made], referee(critic(rules["largest"])))
    assert [len(level) for level in bracket] == [8, 4, 2, 1]
    for level, row in enumerate(bracket):
        assert [c.answer for c in row] == [max(c.answer for c in block) for block in blocks(bracket[0], 1 << level)]


@pytest.mark.parametrize("tournament", [swiss, round_robin])
def test_large_blocks_can_be_left_out(pool: Any, critic: Any, referee: Any, rules: Any, tournament: Any) -> None:
    judge = referee(critic(rules["largest"]))
    brackets = tournament([pool("a", range(16)), pool("b", range(2))], judge, largest=4)
    assert [[len(level) for level in b] for b in brackets] == [[16, 8, 4], [2, 1]]
    # Four blocks of four with all six pairs at most, and one pair.
    assert judge.bill.judgements <= 2 * (4 * 6 + 1)
