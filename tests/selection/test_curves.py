"""Curves over N, against cases that can be worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.judging.generation import Generation
from recipe.critic_r1.selection.curves import measure
from recipe.critic_r1.selection.knock_out import knock_out, weighted_knock_out
from recipe.critic_r1.selection.league import round_robin


def test_a_perfect_critic_reaches_the_oracle(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """One right answer (the largest) among eight: best of N finds it in the one block that holds it."""
    pools = [pool(f"p{i}", range(8), truth=7) for i in range(30)]
    result = measure(pools, knock_out(pools, referee(critic(rules["largest"]))))
    for n in (1, 2, 4, 8):
        assert result.at("knock_out", n).value == pytest.approx(n / 8)
        assert result.at("oracle", n) == result.at("knock_out", n)
        assert result.at("one_sample", n).value == pytest.approx(1 / 8)
    gain = result.gain("knock_out", "one_sample", 8)
    assert (gain.value, gain.low, gain.high) == pytest.approx((7 / 8, 7 / 8, 7 / 8))
    assert gain.n == 30


def test_a_critic_that_is_always_wrong_falls_below_one_sample(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    pools = [pool(f"p{i}", [1, 1, 1, 2], truth=1) for i in range(40)]
    result = measure(pools, knock_out(pools, referee(critic(rules["largest"]))))
    assert result.at("knock_out", 4).value == 0
    assert result.at("majority", 4).value == 1
    assert result.at("one_sample", 4).value == pytest.approx(0.75)
    gain = result.gain("knock_out", "majority", 4)
    assert gain.value == -1


def test_at_n_1_all_selectors_are_one_sample(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    pools = [pool(f"p{i}", [i % 3, 2, None, i % 2], truth=2) for i in range(30)]
    result = measure(pools, knock_out(pools, referee(critic(rules["largest"]))))
    values = {result.at(selector, 1).value for selector in result.shares}
    assert len(values) == 1


def test_records_are_ready_for_json(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    pools = [pool(f"p{i}", [1, 2], truth=2) for i in range(5)]
    curves = measure(pools, knock_out(pools, referee(critic(rules["largest"])))).curves()
    assert [curve.selector for curve in curves] == ["knock_out", "one_sample", "majority", "oracle"]
    assert [record["n_candidates"] for record in curves[0].as_records()] == [1, 2]
    assert set(curves[0].as_records()[0]) == {"n_candidates", "value", "low", "high", "n"}


def test_further_tournaments_stand_on_the_same_blocks(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    pools = [pool(f"p{i}", range(8), truth=7) for i in range(30)]
    judge = referee(critic(rules["largest"]))
    others = {
        "weighted_knock_out": weighted_knock_out(pools, judge),
        "round_robin": round_robin(pools, judge, largest=4),
    }
    result = measure(pools, knock_out(pools, judge), others=others, judge=judge)
    for name in others:
        top = 8 if name == "weighted_knock_out" else 4
        points = next(c for c in result.curves() if c.selector == name).points
        assert list(points) == [n for n in (1, 2, 4, 8) if n <= top]
        assert [e.value for e in points.values()] == pytest.approx([n / 8 for n in points])


def test_costs_are_those_of_the_selector_alone(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    """Eight answers, a perfect critic, 30 + 9 tokens a judgement, 20 + 80 tokens for the eight candidates."""
    pools = [replace(pool(f"p{i}", range(8), truth=7), prompt_tokens=20, completion_tokens=80) for i in range(10)]
    judge = referee(critic(rules["largest"]))
    others = {"round_robin": round_robin(pools, judge, largest=4)}
    curves = {
        c.selector: {r["n_candidates"]: r for r in c.as_records()}
        for c in measure(pools, knock_out(pools, judge), others=others, judge=judge).curves()
    }
    for n in (1, 2, 4, 8):
        point = curves["knock_out"][n]
        assert point["judgements"] == 2 * (n - 1)
        assert (point["judge_prompt_tokens"], point["judge_completion_tokens"]) == (60 * (n - 1), 18 * (n - 1))
        assert point["candidate_tokens"] == 20 + 10 * n
        assert point["tokens"] == 78 * (n - 1) + 20 + 10 * n
        assert curves["majority"][n]["judgements"] == 0
        assert curves["majority"][n]["tokens"] == 20 + 10 * n
        assert curves["one_sample"][n]["tokens"] == 30
    assert [curves["round_robin"][n]["judgements"] for n in (1, 2, 4)] == [0, 2, 12]
    # From 1/8 to 8/8 right: 87.5 points for 78 x 7 + 70 tokens more.
    assert curves["knock_out"][8]["tokens_per_point"] == pytest.approx((78 * 7 + 70) / 87.5)
    assert curves["knock_out"][1]["tokens_per_point"] is None
    assert curves["majority"][8]["tokens_per_point"] is None or (curves["majority"][8]["value"] or 0) > 1 / 8


def test_nothing_gained_has_no_price(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    pools = [replace(pool(f"p{i}", [1, 1, 1, 2], truth=1), prompt_tokens=20, completion_tokens=40) for i in range(5)]
    judge = referee(critic(rules["largest"]))
    curves = {c.selector: c for c in measure(pools, knock_out(pools, judge), judge=judge).curves()}
    assert curves["knock_out"].costs[4]["tokens_per_point"] is None
    assert curves["majority"].costs[4]["tokens_per_point"] == pytest.approx(30 / 25)


@pytest.mark.parametrize("unknown", ["candidates", "judgements"])
def test_tokens_that_were_not_counted_are_not_nought(
    pool: Any, critic: Any, referee: Any, rules: Any, unknown: str
) -> None:
    def uncounted(first: str, second: str, request: Any) -> Generation:
        return Generation((rules["largest"](first, second, request),))

    tokens = 0 if unknown == "candidates" else 40
    pools = [replace(pool(f"p{i}", range(4), truth=3), prompt_tokens=9, completion_tokens=tokens) for i in range(5)]
    judge = referee(critic(rules["largest"] if unknown == "candidates" else uncounted))
    curves = {c.selector: c for c in measure(pools, knock_out(pools, judge), judge=judge).curves()}
    costs = curves["knock_out"].costs[4]
    assert costs["judgements"] == 6
    assert (costs["candidate_tokens"] is None) == (unknown == "candidates")
    assert (costs["judge_prompt_tokens"] is None) == (unknown == "judgements")
    assert costs["tokens"] is None
    assert costs["tokens_per_point"] is None


@pytest.mark.parametrize("sizes", [(3, 3), (4, 2)])
def test_unequal_pools_are_refused(pool: Any, critic: Any, referee: Any, rules: Any, sizes: tuple[int, int]) -> None:
    pools = [pool(f"p{i}", range(n)) for i, n in enumerate(sizes)]
    with pytest.raises(ValueError, match="power of two"):
        measure(pools, knock_out(pools, referee(critic(rules["largest"]))))
