"""Group rewards: judges with known rules, and what each scheme makes of them."""

import asyncio
import itertools
from collections import Counter

import pytest

from reward_fns.group import (
    NOT_ASKED,
    GroupScores,
    JudgedMatch,
    JudgeFailedError,
    Scheme,
    bradley_terry,
    group_scores,
    rewards,
    win_rates,
)

ASKED: list[tuple[str, str]] = []


async def larger(first: str, second: str) -> str | None:
    ASKED.append((first, second))
    return "tie" if int(first) == int(second) else "1" if int(first) > int(second) else "2"


async def prefers_later_letters(first: str, second: str) -> str | None:
    return "1" if first > second else "2"


async def always_first(first: str, second: str) -> str | None:
    return "1"


async def unreadable(first: str, second: str) -> str | None:
    return None


async def strange(first: str, second: str) -> str | None:
    return "both"


async def failing(first: str, second: str) -> str | None:
    raise JudgeFailedError("503")


async def tenths(response: str) -> float | None:
    """The scorer: tenths of the number; unreadable for 0, off the scale above 10."""
    ASKED.append((response, ""))
    return int(response) / 10 if int(response) else None


async def failing_scorer(response: str) -> float | None:
    raise JudgeFailedError("503")


def scored(responses: list[str], judge: object = larger, **options: object) -> GroupScores:
    ASKED.clear()
    return asyncio.run(group_scores(responses, judge, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "share"),
    [
        (("1", "2"), 1.0),
        (("2", "1"), 0.0),
        (("1", "1"), 0.5),  # flips with the order
        (("2", "2"), 0.5),
        (("tie", "tie"), 0.5),
        (("1", "tie"), 0.75),
        (("1", None), 0.75),  # an unreadable verdict is worth 0.5 to each
        ((None, None), 0.5),
        (("1", NOT_ASKED), 1.0),  # not asked: the other order alone counts
        ((NOT_ASKED, "1"), 0.0),
        (("tie", NOT_ASKED), 0.5),
        ((None, NOT_ASKED), 0.5),
        ((NOT_ASKED, NOT_ASKED), 0.5),
    ],
)
def test_a_match_is_worth_what_is_stated(verdicts: tuple[str | None, str | None], share: float) -> None:
    assert JudgedMatch(0, 1, verdicts).share == share


@pytest.mark.parametrize(
    ("scheme", "matches", "scores"),
    [
        ("win_rate", 6, [0.0, 1 / 3, 2 / 3, 1.0]),
        ("knock_out", 6, [0.0, 1 / 3, 2 / 3, 1.0]),  # few answers: a round robin
        ("margin", 4, [0.0, 0.5, 1.0, 1.0]),
    ],
)
def test_scores_of_a_perfect_judge(scheme: Scheme, matches: int, scores: list[float]) -> None:
    found = scored(["1", "2", "3", "4"], scheme=scheme, reference="2")
    assert found.scores == pytest.approx(scores)
    assert len(found.matches) == matches
    assert len(ASKED) == 2 * matches
    assert set(ASKED) == {pair[::-1] for pair in ASKED}, "both orders"


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ({"scheme": "win_rate"}, 28),
        ({"scheme": "knock_out"}, 7),
        ({"scheme": "bradley_terry"}, 16),
        ({"scheme": "margin", "reference": "4"}, 8),
    ],
)
def test_drawn_orders_are_half_the_cost_and_spread_evenly(options: dict[str, object], matches: int) -> None:
    responses = [str(i) for i in range(8)]
    both = scored(responses, **options, seed=3)
    assert len(ASKED) == 2 * matches
    shown_first: Counter[str] = Counter()
    ways = set()
    for seed in range(40):
        found = scored(responses, **options, orders="drawn", seed=seed)
        assert (len(found.matches), len(ASKED), len(set(ASKED))) == (matches, matches, matches)
        assert all(match.verdicts.count(NOT_ASKED) == 1 for match in found.matches)
        firsts, seconds = Counter(a for a, _ in ASKED), Counter(b for _, b in ASKED)
        if options["scheme"] == "margin":
            # A preference for one place is the same for every response of the group.
            assert len(firsts) == 1 or len(seconds) == 1
        else:
            assert max(abs(firsts[one] - seconds[one]) for one in responses) <= 3
        shown_first += firsts
        ways.add(tuple(ASKED))
        if seed == 3:
            again = list(ASKED)
            scored(responses, **options, orders="drawn", seed=seed)
            assert again == ASKED, "the seed decides"
            assert found.scores == both.scores, "a judge without a preference for one place"
    assert 0.3 < shown_first["7"] / 40 / sum("7" in pair for pair in ASKED) < 0.7
    assert len(ways) == 2 if options["scheme"] == "margin" else len(ways) > 10


@pytest.mark.parametrize(("n", "scheme"), [(5, "win_rate"), (9, "win_rate"), (7, "margin"), (8, "margin")])
def test_a_preference_for_a_place_cancels_out_in_drawn_orders(n: int, scheme: str) -> None:
    """Round robins of an odd number of answers, and the one order of a margin."""
    for seed in range(5):
        found = scored(
            [str(i) for i in range(n)], always_first, scheme=scheme, reference="x", orders="drawn", seed=seed
        )
        assert len(set(found.scores)) == 1


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        (larger, {"unreadable": 0.0}),
        (always_first, {"unreadable": 0.0, "first_place": 1.0}),
        (unreadable, {"unreadable": 1.0}),
        (strange, {"unreadable": 1.0}),
    ],
)
def test_a_verdict_that_was_not_asked_for_is_not_an_unreadable_one(judge: object, told: dict[str, float]) -> None:
    metrics = scored(["1", "2", "3"], judge, orders="drawn").metrics()
    assert (metrics["matches"], metrics["judgements"]) == (3.0, 3.0)
    assert {name: metrics[name] for name in told} == told
    assert ("first_place" in metrics) == (told["unreadable"] == 0.0)
    assert "flipped" not in metrics, "no match was judged in both orders"


@pytest.mark.parametrize("orders", ["both", "drawn"])
def test_the_answer_of_the_reference_draws_unasked(orders: str) -> None:
    options = {"scheme": "margin", "reference": "2 apples", "reference_answer": "b", "answers": ["a", "b", "b", "c"]}
    found = scored(["1", "2", "2", "3"], prefers_later_letters, **options, orders=orders)
    assert found.scores == [0.0, 0.5, 0.5, 1.0]
    assert found.matches[1].verdicts == (NOT_ASKED, NOT_ASKED)
    assert found.metrics()["judgements"] == (4.0 if orders == "both" else 2.0)


@pytest.mark.parametrize(
    ("responses", "scores", "points", "unreadable"),
    [
        (["1", "9", "4"], [0.1, 0.9, 0.4], [0.1, 0.9, 0.4], 0.0),
        (["9", "3", "9", "3"], [0.9, 0.3, 0.9, 0.3], [0.9, 0.3], 0.0),  # equal answers are scored once
        (["0", "2", "8", "8"], [0.6, 0.2, 0.8, 0.8], [None, 0.2, 0.8], 1 / 3),  # unreadable: the mean of the group
        (["11", "2"], [0.2, 0.2], [None, 0.2], 0.5),  # off the scale
        (["0", "0"], [0.5, 0.5], [None], 1.0),
        (["7"], [0.7], [0.7], 0.0),
    ],
)
def test_pointwise_scores(
    responses: list[str], scores: list[float], points: list[float | None], unreadable: float
) -> None:
    found = scored(responses, scheme="pointwise", score=tenths)
    assert found.scores == pytest.approx(scores)
    assert (found.points, found.matches, len(ASKED)) == (points, [], len(set(responses)))
    assert found.metrics() == {
        "matches": 0.0,
        "judgements": float(len(points)),
        "unreadable": pytest.approx(unreadable),
        "spread": pytest.approx(max(scores) - min(scores)),
    }


@pytest.mark.parametrize("n", range(5, 20))
def test_a_knock_out_takes_n_minus_1_matches_and_its_winner_is_the_best(n: int) -> None:
    for seed in range(3):
        found = scored([str(i) for i in range(n)], seed=seed)
        assert len(found.matches) == n - 1
        assert found.scores.index(max(found.scores)) == n - 1
        assert max(found.scores) == 1.0
        assert min(found.scores) == 0.0


def test_strengths_follow_the_order_and_are_cheap() -> None:
    found = scored([str(i) for i in range(8)], scheme="bradley_terry")
    assert len(found.matches) == 16
    assert found.scores.index(max(found.scores)) == 7
    against_all = scored([str(i) for i in range(8)], scheme="bradley_terry", neighbours=4)
    assert len(against_all.matches) == 28
    assert against_all.scores == sorted(against_all.scores)


def test_strengths_equal_the_closed_form_of_two_players() -> None:
    # The derivative of the posterior is zero: what a player won is what its strength leads to expect.
    games = [JudgedMatch(0, 1, ("1", "2"))] * 3
    first, second = bradley_terry(2, games, prior=1.0, iterations=2000)
    assert first + second == pytest.approx(1)
    root = first / (1 - first)  # the strength; that of the other is its inverse
    s = root**2
    assert 1.0 * root / (root + 1) + 3 * s / (s + 1) == pytest.approx(3 + 0.5, abs=1e-6)


def test_a_draw_everywhere_is_a_half_for_everybody() -> None:
    matches = [JudgedMatch(i, j, ("tie", "tie")) for i, j in itertools.combinations(range(5), 2)]
    assert bradley_terry(5, matches) == pytest.approx([0.5] * 5)
    assert win_rates(5, matches) == [0.5] * 5
    assert win_rates(2, []) == [0.5, 0.5]


def test_equal_answers_are_one_player() -> None:
    found = scored(["3", "1", "3", "1", "2"], scheme="win_rate")
    assert found.scores == [1.0, 0.0, 1.0, 0.0, 0.5]
    assert len(found.matches) == 3
    by_answer = scored(["7", "8", "9"], scheme="win_rate", answers=["a", "a", "b"])
    assert by_answer.scores == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("judge", [always_first, unreadable, strange])
def test_a_judge_without_skill_gives_no_advantage(judge: object) -> None:
    for scheme in ("win_rate", "bradley_terry"):
        found = scored([str(i) for i in range(6)], judge, scheme=scheme)
        assert found.judged
        assert found.scores == pytest.approx([0.5] * 6)


def test_habits_of_the_judge_are_told() -> None:
    assert scored(["1", "2", "3"], always_first).metrics() == {
        "matches": 3.0,
        "judgements": 6.0,
        "unreadable": 0.0,
        "flipped": 1.0,
        "first_place": 1.0,
        "spread": 0.0,
    }
    assert scored(["1", "2", "3"], unreadable).metrics()["unreadable"] == 1.0
    assert scored(["1", "2", "3"]).metrics()["first_place"] == 0.5


@pytest.mark.parametrize(
    ("responses", "judge", "options", "failure"),
    [
        (["1", "2"], failing, {}, "503"),
        (["1", "2"], failing, {"orders": "drawn"}, "503"),
        (["1", "2"], larger, {"scheme": "pointwise", "score": failing_scorer}, "503"),
        (["1", "1"], larger, {}, ""),
    ],
)
def test_a_group_that_is_not_judged_has_no_advantage(
    responses: list[str], judge: object, options: dict[str, object], failure: str
) -> None:
    found = scored(responses, judge, **options)
    assert (found.judged, found.failure, found.scores) == (False, failure, [0.5, 0.5])
    assert [reward["score"] for reward in rewards(found, [1.0, 0.0])] == [0.0, 0.0]
    assert {reward["reason"] for reward in rewards(found, [1.0, 0.0])} == {"unjudged"}


def test_the_format_has_its_share() -> None:
    found = scored(["1", "2"])
    assert [reward["score"] for reward in rewards(found, [1.0, 0.0])] == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "swiss"}, "none of win_rate"),
        ({"scheme": "margin"}, "give one"),
        ({"scheme": "pointwise"}, "give score"),
        ({"orders": "one"}, "none of both, drawn"),
        ({"answers": ["a"]}, "one answer for each"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(["1", "2"], **options)
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(2, [], prior=0)
