"""Score tasks: shapes, scales, and what is not a number on the scale."""

from typing import Any

import pytest

from reward_fns import pointwise

T = "<think>A reason.</think>"


@pytest.mark.parametrize(
    ("answer", "label", "options", "credit"),
    [
        ("7", "7", {}, 1.0),
        ("7.0", "7", {}, 1.0),
        ("6", "8", {}, 0.8),
        ("0", "10", {}, 0.0),
        ("8/10", "8", {}, 1.0),
        ("\\text{8}", "8", {}, 1.0),
        ("6", "8", {"shape": "exact"}, 0.0),
        ("6", "8", {"shape": "quadratic"}, 0.64),
        ("4", "5", {"low": 1, "high": 5}, 0.75),
        ("6", "5", {"low": 1, "high": 5}, 0.0),  # off the scale
        ("8/5", "8", {}, 0.0),  # another scale
        ("11", "10", {}, 0.0),
        ("-1", "0", {}, 0.0),
        ("nan", "5", {}, 0.0),
        ("inf", "5", {}, 0.0),
        ("1e1", "10", {}, 0.0),
        ("٧", "7", {}, 0.0),
        ("seven", "7", {}, 0.0),
    ],
)
def test_score(answer: str, label: str, options: dict[str, Any], credit: float) -> None:
    result = pointwise.compute_score("critic_score/x", f"{T}\\boxed{{{answer}}}", label, **options)
    assert result["credit"] == pytest.approx(credit)
    assert result["format"] == float(result["pred"] != "")
