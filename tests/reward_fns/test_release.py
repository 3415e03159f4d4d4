"""release_compatible against the release's few lines on top of mathruler."""

import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mathruler.grader import extract_boxed_content, grade_answer

from reward_fns.preference import compute_score
from reward_fns.release import MAX_ANSWER_CHARS, same_answer, score_like_release
from tests.reward_fns.response_grammar import PIECES, random_response
from tests.reward_fns.verdict_cases import ILL_FORMED, NO_CHOICE, OK

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4)))

FORM = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)

# What mathruler treats specially, besides PIECES.
ANSWERS = (
    *PIECES, "1.0", "2.0", "1e0", "(", ")", "[", "]", "%", "\\%", "\\$", "=", "x=", "+", "-", "cm", " day", "second",
    "\\sqrt", "\\left", "\\right", "\\!", ",", "000", "/", "1/1", "\\mathrm{", "million", "^", "^{\\circ}", "^\\circ",
    " or ", " and ", "_", "\\text{ ", "\\\\", "0.99999999", ",001", "inch", "00000001", "0", ".", "\\frac", "(1.0)",
)  # fmt: skip


def release(text: str, label: str) -> tuple[float, float]:
    """The release's reward, from its published description in docs/rewards.md."""
    text = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    return float(grade_answer(extract_boxed_content(text), label)), float(FORM.fullmatch(text) is not None)


@pytest.mark.parametrize("seed", SEEDS)
def test_answers(seed: int) -> None:
    rng = random.Random(seed)
    right = 0
    for _ in range(400):
        answer = "".join(rng.choices(ANSWERS, k=rng.choice((1, 1, 2, 2, 3, 4)))).strip()
        for label in ("1", "2", "tie"):
            assert same_answer(answer, label) == bool(grade_answer(answer, label)), (answer, label)
            right += same_answer(answer, label)
    assert right > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_responses(seed: int) -> None:
    rng = random.Random(seed)
    seen: set[Any] = set()
    for _ in range(400):
        text = random_response(rng)
        for label in ("1", "2", "tie"):
            assert score_like_release(text, label) == release(text, label), (text, label)
            seen.add(release(text, label))
    assert seen == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}


def test_the_hand_made_cases_that_mathruler_can_finish() -> None:
    compared = 0
    for case in (*OK, *ILL_FORMED, *NO_CHOICE):
        text = case[1]
        if isinstance(text, str) and len(text) < 1_000:
            compared += 1
            assert score_like_release(text, "1") == release(text, "1"), case[0]
            result = compute_score("critic/x", text, "1", release_compatible=True)
            assert result["score"] == (1 - 0.1) * release(text, "1")[0] + 0.1 * release(text, "1")[1]
    assert compared > 180


def test_the_bound_is_the_only_difference() -> None:
    padded = "1." + "0" * MAX_ANSWER_CHARS
    assert grade_answer(padded, "1")
    assert not same_answer(padded, "1")


def test_threads() -> None:
    texts = [random_response(random.Random(seed)) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: score_like_release(text, "1"), texts)) == [
            score_like_release(text, "1") for text in texts
        ]
