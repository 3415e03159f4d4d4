"""The bonus for judging both orders of a pair alike."""

from typing import Any

import pytest

from reward_fns.swap_consistency import adjust

# pair, order, verdict, label, score -> adjusted score with weight 0.2 as a bonus
SWAP = [
    ("consistent and right", [("p", 0, "1", "1", 1.0), ("p", 1, "2", "2", 1.0)], [1.2, 1.2]),
    ("always the first: right in one order", [("p", 0, "1", "1", 1.0), ("p", 1, "1", "2", 0.1)], [1.0, 0.1]),
    ("consistent and wrong", [("p", 0, "2", "1", 0.1), ("p", 1, "1", "2", 0.1)], [0.1, 0.1]),
    ("ties agree", [("p", 0, "tie", "tie", 1.0), ("p", 1, "tie", "tie", 1.0)], [1.2, 1.2]),
    ("unreadable agrees with nothing", [("p", 0, "", "1", 0.0), ("p", 1, "", "2", 0.0)], [0.0, 0.0]),
    ("one order only", [("p", 0, "1", "1", 1.0), ("q", 1, "2", "2", 1.0)], [1.0, 1.0]),
    (
        "half of the other group agrees",
        [("p", 0, "1", "1", 1.0), ("p", 1, "2", "2", 1.0), ("p", 1, "1", "2", 0.1)],
        [1.1, 1.2, 0.1],
    ),
]


@pytest.mark.parametrize(("why", "rows", "expected"), SWAP, ids=[case[0] for case in SWAP])
def test_bonus(why: str, rows: list[tuple[Any, ...]], expected: list[float]) -> None:
    pair_ids, orders, choices, truths, scores = (list(column) for column in zip(*rows, strict=True))
    assert adjust(pair_ids, orders, choices, truths, scores, weight=0.2).scores == pytest.approx(expected), why
    assert adjust(pair_ids, orders, choices, truths, scores, weight=0.0).scores == pytest.approx(scores)
    # In a group seen in both orders, the penalty is the bonus moved by the weight (nothing goes below 0).
    penalty = adjust(pair_ids, orders, choices, truths, scores, weight=0.2, mode="penalty")
    known = [share is not None for share in penalty.agreement]
    moved = [max(0.0, e - 0.2) if both else e for e, both in zip(expected, known, strict=True)]
    assert penalty.scores == pytest.approx(moved)


def test_metrics_and_options() -> None:
    rows = (["p", "p", "q", "q", "r"], [0, 1, 0, 1, 0], ["1", "2", "1", "1", "1"], ["1", "2", "1", "2", "1"])
    result = adjust(*rows, [1.0, 1.0, 1.0, 0.1, 1.0], weight=0.2)
    assert result.metrics == pytest.approx({"pairs": 2, "consistent": 0.5, "agreement": 0.5, "adjustment": 0.1})
    assert adjust(["p"], [0], ["1"], ["1"], [1.0]).metrics == {}
    wrong = adjust(["p", "p"], [0, 1], ["2", "1"], ["1", "2"], [0.1, 0.1], weight=0.2, only_right=False)
    assert wrong.scores == pytest.approx([0.3, 0.3])
    for bad in ({"weight": -1.0}, {"mode": "other"}):
        with pytest.raises(ValueError, match="weight"):
            adjust(["p"], [0], ["1"], ["1"], [1.0], **bad)
    with pytest.raises(ValueError, match="order must be 0 or 1"):
        adjust(["p"], [2], ["1"], ["1"], [1.0])
    with pytest.raises(ValueError, match="one entry for each rollout"):
        adjust(["p"], [0, 1], ["1"], ["1"], [1.0])
