"""Curves over N, against cases that can be worked out by hand."""

from typing import Any

import pytest

from recipe.critic_r1.self_critique.curves import measure
from recipe.critic_r1.self_critique.selectors import knock_out


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


@pytest.mark.parametrize("sizes", [(3, 3), (4, 2)])
def test_unequal_pools_are_refused(pool: Any, critic: Any, referee: Any, rules: Any, sizes: tuple[int, int]) -> None:
    pools = [pool(f"p{i}", range(n)) for i, n in enumerate(sizes)]
    with pytest.raises(ValueError, match="power of two"):
        measure(pools, knock_out(pools, referee(critic(rules["largest"]))))
