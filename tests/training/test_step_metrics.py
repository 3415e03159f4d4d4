"""Metrics of a step, on rollouts whose outcome is known."""

import math
from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.training.step_metrics import Rollout, critic_metrics


def rollout(
    uid: str, pred: str, truth: str = "1", reason: str = "ok", source: str = "critic/a", n: int = 10
) -> Rollout:
    acc = float(pred == truth)
    formed = float(reason == "ok")
    reward = {"score": 0.9 * acc + 0.1 * formed, "acc": acc, "format": formed, "pred": pred, "reason": reason}
    return Rollout(uid, 0, source, "", "", n, truth, {}, reward)


def test_means_and_reasons() -> None:
    found = critic_metrics(
        [rollout("a", "1"), rollout("a", "2"), rollout("b", "", reason="no_box"), rollout("b", "", reason="no_box")]
    )
    assert found["critic_r1/accuracy"] == 0.25
    assert found["critic_r1/format_rate"] == 0.5
    assert found["critic_r1/reason/no_box"] == 0.5
    assert found["critic_r1/reason/unclosed_think"] == 0.0  # present although it did not occur
    assert found["critic_r1/groups_without_signal"] == 0.5  # group b
    assert found["critic_r1/response_tokens/mean"] == 10


@pytest.mark.parametrize(
    ("verdicts", "bias"),
    [
        ([("1", "1"), ("2", "2")], 0.0),  # right both times
        ([("1", "1"), ("1", "2")], 0.5),  # always the first
        ([("2", "1"), ("2", "2")], -0.5),  # always the second
        ([("1", "1"), ("1", "1")], 0.0),  # the data is one-sided, not the judge
        ([("1", "1"), ("", "2")], 0.0),  # an unreadable verdict has no position
        ([("1", "1"), ("tie", "2")], 0.0),  # nor has a tie
    ],
)
def test_position_bias(verdicts: list[tuple[str, str]], bias: float) -> None:
    found = critic_metrics([rollout(str(i), pred, truth) for i, (pred, truth) in enumerate(verdicts)])
    assert found["critic_r1/position_bias"] == pytest.approx(bias)


def test_mixed_data_is_also_logged_apart() -> None:
    found = critic_metrics([rollout("a", "1"), rollout("b", "7", truth="3", source="policy/digits")])
    assert found["critic_r1/critic/a/accuracy"] == 1.0
    assert found["critic_r1/policy/digits/accuracy"] == 0.0
    assert found["critic_r1/accuracy"] == 0.5


def test_chains_are_counted_where_the_reward_reads_them() -> None:
    rows = [rollout("a", "1"), rollout("a", "2"), rollout("b", "1"), rollout("b", "1")]
    assert "critic_r1/chain_rate" not in critic_metrics(rows)
    chained = [
        replace(row, reward={**row.reward, "chain": chain}) for row, chain in zip(rows[:2], (1.0, 0.0), strict=True)
    ]
    assert critic_metrics([*chained, *rows[2:]])["critic_r1/chain_rate"] == 0.5


def test_a_rollout_without_reward_is_counted_and_not_averaged() -> None:
    unscored = Rollout("a", 0, "critic/a", "", "", 4, "1", {}, {})
    found = critic_metrics([unscored, rollout("b", "1")])
    assert found["critic_r1/unscored_rollouts"] == 1
    assert found["critic_r1/accuracy"] == 1.0


def test_nothing_gives_nothing() -> None:
    assert critic_metrics([]) == {}
    assert not any(math.isnan(v) for v in critic_metrics([rollout("a", "")]).values())


NOTHING_ASKED: dict[str, Any] = {
    **dict.fromkeys(("unreadable", "flipped", "first_place")),
    "matches": 0.0,
    "judgements": 0.0,
}


def judged(uid: str, acc: float, tokens: int = 4, **group: float | None) -> Rollout:
    """A rollout of a judged group; metrics of the group that are None are left out."""
    costs = {"matches": 1.0, "judgements": 2.0, "prompt_tokens": 20.0, "completion_tokens": 4.0, "seconds": 2.0}
    counts = {"unjudged": 0.0, "unreadable": 0.0, "flipped": 0.0, "first_place": 0.5, "spread": 1.0}
    told = {name: value for name, value in (costs | counts | group).items() if value is not None}
    reward = {"score": acc, "acc": acc, "format": 1.0, "pred": "7", "reason": "ok", "group": told, "matches": []}
    return Rollout(uid, 0, "policy/a", "", "", tokens, "7", {}, reward)


def test_a_critic_that_rewards_groups() -> None:
    rollouts = [
        judged("a", 1.0, 9, flipped=0.0, seconds=3.0),
        judged("a", 0.0, flipped=0.0, seconds=3.0),  # the longer one wins
        judged("b", 0.5, 9, flipped=1.0, spread=0.0),
        judged("b", 0.5, flipped=1.0, spread=0.0),  # a draw says nothing about length
        judged("c", 0.5, spread=0.0, prompt_tokens=0.0, **NOTHING_ASKED),  # all equal
        judged("d", 0.0, 9, unjudged=1.0, spread=0.0, **NOTHING_ASKED),
        judged("d", 0.5, unjudged=1.0, spread=0.0, **NOTHING_ASKED),
    ]
    found = critic_metrics(rollouts)
    expected = {
        "unjudged": 0.25, "spread": 1 / 3, "flipped": 0.5, "first_place": 0.5, "matches": 2.0, "prompt_tokens": 60.0,
        "unreadable": 0.0, "judgements": 4.0, "completion_tokens": 16.0, "seconds/max": 3.0, "seconds/mean": 2.25,
        "longer_wins": 1.0,
    }  # fmt: skip
    assert {name: found[f"critic_r1/judge/{name}"] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"flipped": None, "judgements": 1.0}, {"unreadable", "first_place"}),  # one order
        (
            {"flipped": None, "first_place": None, "unreadable": 0.5, "matches": 0.0, "judgements": 4.0},
            {"unreadable"},  # scores
        ),
        (NOTHING_ASKED, set()),
    ],
)
def test_what_was_not_measured_is_not_logged(measured: dict[str, Any], told: set[str]) -> None:
    found = critic_metrics([judged("a", 1.0, **measured), judged("a", 0.0, **measured)])
    logged = {name for name in ("unreadable", "flipped", "first_place") if f"critic_r1/judge/{name}" in found}
    assert logged == told
    assert found["critic_r1/judge/judgements"] == measured["judgements"]


def test_without_such_a_critic_nothing_is_said_of_one() -> None:
    assert not [name for name in critic_metrics([rollout("a", "1")]) if "judge/" in name]
