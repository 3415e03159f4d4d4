"""Intervals: against closed forms, against published numbers, and where a plain bootstrap would mislead."""

import numpy as np
import pytest

from recipe.critic_r1.judging import intervals
from recipe.critic_r1.judging.intervals import NOTHING, ClusterBootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_newcombe(successes: int, n: int, low: float, high: float) -> None:
    """Method 3 of R. G. Newcombe, Statistics in Medicine 17 (1998), table I."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)


def test_independent_observations_get_wilson() -> None:
    values = [1] * 30 + [0] * 10
    estimate = ClusterBootstrap([str(i) for i in range(40)]).rate(values)
    assert (estimate.value, estimate.n) == (0.75, 40)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(30, 40))


def test_a_cluster_counts_once_however_often_it_is_repeated() -> None:
    """Eight copies of each observation are no more evidence than one."""
    rng = np.random.default_rng(1)
    once = rng.integers(0, 2, 200)
    eightfold = ClusterBootstrap([str(i) for i in range(200) for _ in range(8)]).rate(np.repeat(once, 8))
    single = ClusterBootstrap([str(i) for i in range(200)]).rate(once)
    assert eightfold.n == 1600
    width, single_width = (e.high - e.low for e in (eightfold, single))  # type: ignore[operator]
    assert width == pytest.approx(single_width, rel=0.08)
    naive = 2 * 1.96 * np.sqrt(0.25 / 1600)
    assert width > 2 * naive


def test_bootstrap_agrees_with_the_normal_form_of_a_cluster_mean() -> None:
    rng = np.random.default_rng(2)
    means = rng.normal(0.3, 0.1, 300)
    estimate = ClusterBootstrap([str(i) for i in range(300)], resamples=5000).rate(means)
    half = 1.96 * means.std() / np.sqrt(300)
    assert estimate.value == pytest.approx(means.mean())
    assert (estimate.low, estimate.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=half * 0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_unanimous_clusters_still_have_an_interval(value: float) -> None:
    estimate = ClusterBootstrap([str(i // 2) for i in range(20)]).rate([value] * 20)
    assert estimate.value == value
    assert (estimate.low, estimate.high) == pytest.approx(wilson(value * 10, 10))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_unanimous_balance_is_uncertain_on_every_side_that_exists(value: float) -> None:
    reach = wilson(0, 10)[1]
    estimate = ClusterBootstrap([str(i // 2) for i in range(20)]).balance([value] * 20)
    assert (estimate.value, estimate.n) == (value, 20)
    assert (estimate.low, estimate.high) == pytest.approx((max(-1, value - reach), min(1, value + reach)))


def test_a_balance_is_the_difference_of_its_two_sides() -> None:
    values = np.random.default_rng(7).integers(-1, 2, 90)
    bootstrap = ClusterBootstrap([str(i // 3) for i in range(90)])
    balance, difference = bootstrap.balance(values), bootstrap.difference(values > 0, values < 0)
    assert balance.as_dict() == pytest.approx(difference.as_dict())
    assert bootstrap.balance(values, [False] * 90) == NOTHING


def test_only_counted_observations_matter() -> None:
    clusters = ["a", "a", "b", "c"]
    estimate = ClusterBootstrap(clusters).rate([1, 0, 1, float("nan")], [True, False, True, False])
    assert (estimate.value, estimate.n) == (1.0, 2)
    assert ClusterBootstrap(clusters).rate([1, 1, 1, 1], [False] * 4) == NOTHING


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="3 observations"):
        ClusterBootstrap(["a", "b", "c"]).rate([1, 0])


def test_a_difference_is_paired() -> None:
    """Two noisy figures that move together: their difference is known far better than either of them."""
    rng = np.random.default_rng(3)
    hard = rng.random(400)
    a, b = (hard < 0.6).astype(float), (hard < 0.5).astype(float)
    bootstrap = ClusterBootstrap([str(i) for i in range(400)])
    gain = bootstrap.difference(a, b)
    assert gain.value == pytest.approx(a.mean() - b.mean())
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low > 0
    single = bootstrap.rate(a)
    assert gain.high - gain.low < 0.75 * (single.high - single.low)  # type: ignore[operator]


def test_the_same_seed_gives_the_same_interval_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = [str(i // 3) for i in range(90)]
    values = np.random.default_rng(4).random(90)
    whole = ClusterBootstrap(clusters, seed=5).rate(values)
    monkeypatch.setattr(intervals, "BLOCK_CELLS", 700)
    assert ClusterBootstrap(clusters, seed=5).rate(values) == whole
    assert ClusterBootstrap(clusters, seed=6).rate(values) != whole


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """300 worlds of 60 images with 4 correlated samples each: a 95 % interval covers in 90 to 99 % of them."""
    rng = np.random.default_rng(6)
    clusters = [str(i // 4) for i in range(240)]
    hits = 0
    for _ in range(300):
        skill = rng.beta(2, 2, 60)
        values = rng.random((60, 4)) < skill[:, None]
        estimate = ClusterBootstrap(clusters, resamples=400).rate(values.ravel())
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.90 <= hits / 300 <= 0.99
