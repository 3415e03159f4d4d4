"""No text breaks a reward, and none earns it for both labels. benchmarks/reward.py runs a million of these."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_fns import mixed
from tests.reward_fns.response_grammar import PIECES, random_response

LABELS = {"critic/x": ("1", "2"), "critic_score/x": ("7", "3"), "critic_nway/x": ("1", "2"), "policy/x": ("1", "2")}
OPTIONS: dict[str, Any] = {"answer": {"symbolic": False}}  # algebra has a test of its own
KEYS = list(mixed.compute_score("critic/x", "", "1"))

texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def check(source: str, text: str) -> float:
    results = [mixed.compute_score(source, text, label, **OPTIONS) for label in LABELS[source]]
    for result in results:
        assert list(result) == KEYS
        assert 0.0 <= result["score"] <= 1.0
        assert result["acc"] in (0.0, 1.0)
    assert sum(result["score"] == 1.0 for result in results) <= 1
    return max(float(result["score"]) for result in results)


@pytest.mark.parametrize("source", LABELS)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=texts)
def test_any_text(source: str, text: str) -> None:
    check(source, text)


@pytest.mark.parametrize("source", LABELS)
def test_grammar(source: str) -> None:
    rng = random.Random(source)
    best = [check(source, random_response(rng)) for _ in range(5_000)]
    # The generator reaches both ends; a generator that never earns anything would prove nothing.
    assert min(best) == 0.0
    assert max(best) == 1.0 if source != "critic_score/x" else max(best) > 0.5


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    thoughts=st.text(min_size=1).filter(lambda t: t.strip() and "think>" not in t),
    label=st.sampled_from(["1", "2", "tie"]),
)
def test_gold_is_one_whatever_the_thoughts_are(thoughts: str, label: str) -> None:
    text = f"<think>{thoughts}</think>\\boxed{{{label}}}"
    assert mixed.compute_score("critic/x", text, label)["score"] == 1.0
