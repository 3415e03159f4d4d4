"""Group rewards: judges with known rules, and what each scheme makes of them."""

import asyncio
import itertools

import pytest

from reward_fns.group import (
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


async def always_first(first: str, second: str) -> str | None:
    return "1"


async def unreadable(first: str, second: str) -> str | None:
    return None


async def strange(first: str, second: str) -> str | None:
    return "both"


async def failing(first: str, second: str) -> str | None:
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
        "unreadable": 0.0,
        "flipped": 1.0,
        "first_place": 1.0,
        "spread": 0.0,
    }
    assert scored(["1", "2", "3"], unreadable).metrics()["unreadable"] == 1.0
    assert scored(["1", "2", "3"]).metrics()["first_place"] == 0.5


@pytest.mark.parametrize(("responses", "judge", "failure"), [(["1", "2"], failing, "503"), (["1", "1"], larger, "")])
def test_a_group_that_is_not_judged_has_no_advantage(responses: list[str], judge: object, failure: str) -> None:
    found = scored(responses, judge)
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
        ({"answers": ["a"]}, "one answer for each"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(["1", "2"], **options)
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(2, [], prior=0)
