"""Answers to questions: the table of forms, the reasons, and the limits."""

from typing import Any

import pytest

from reward_fns import answer
from reward_fns.answer import CHECKER, compare, compute_score, normalise, same_answer
from reward_fns.verdict import Reason
from tests.reward_fns.answer_cases import CASES, SYMBOLIC

T = "<think>A reason.</think>"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for math-verify on a busy machine; what never ends is tried with the usual limit in test_symbolic."""
    monkeypatch.setattr(CHECKER, "seconds", 10.0)


def test_the_table_is_large() -> None:
    pairs = [case[:2] for cases in (*CASES.values(), *SYMBOLIC.values()) for case in cases]
    assert len(pairs) == len(set(pairs)) >= 350


@pytest.mark.parametrize("form", CASES)
def test_forms_that_need_no_algebra(form: str) -> None:
    found = [(given, label, same_answer(given, label, symbolic=False)) for given, label, _ in CASES[form]]
    assert found == CASES[form]


@pytest.mark.slow
def test_math_verify_pays_for_none_of_the_wrong_ones(patient: None) -> None:
    cases = [case for cases in CASES.values() for case in cases]
    assert [(given, label, same_answer(given, label)) for given, label, _ in cases] == cases


@pytest.mark.parametrize("form", SYMBOLIC)
def test_forms_that_need_algebra(form: str, patient: None) -> None:
    found = [(given, label, same_answer(given, label)) for given, label, _ in SYMBOLIC[form]]
    assert found == SYMBOLIC[form]


@pytest.mark.parametrize("form", [*CASES, *SYMBOLIC])
def test_every_label_earns_its_own_reward(form: str) -> None:
    for given, label, _ in {**CASES, **SYMBOLIC}[form]:
        if len(label) > answer.MAX_ANSWER_CHARS or not normalise(label):
            continue
        answer.check_ground_truth(label)
        result = compute_score("policy/x", f"{T}\\boxed{{{label}}}", label, symbolic=False)
        assert result["acc"] == float(result["reason"] == "ok"), (given, label)


@pytest.mark.parametrize(
    ("given", "label", "tolerance", "same"),
    [
        ("2010", "2000", 0.05, True), ("105", "100", 0.05, True), ("95", "100", 0.05, True),
        ("-95", "-100", 0.05, True),
        ("106", "100", 0.05, False), ("0.01", "0", 0.05, False), ("101", "100", 0.0, False),
        ("10.2 cm", "100 mm", 0.05, True),
        ("11 cm", "100 mm", 0.05, False), ("52%", "0.5", 0.05, True), ("B", "A", 0.5, False),
    ],
)  # fmt: skip
def test_numbers_are_exact_unless_a_tolerance_is_given(given: str, label: str, tolerance: float, same: bool) -> None:
    assert same_answer(given, label, symbolic=False, tolerance=tolerance) is same


@pytest.mark.parametrize(
    ("given", "label", "options", "acc", "reason"),
    [
        ("10 cm", "10 cm", {}, 1.0, "ok"),
        ("10 mm", "10 cm", {}, 0.0, "ok"),
        ("10 smoots", "10 cm", {}, 0.0, "unknown_unit"),
        ("2 cats", "2 dogs", {}, 0.0, "unknown_unit"),
        ("x" * 257, "x", {}, 0.0, "answer_too_long"),
        ("1+" * 64 + "1", "64+1", {}, 0.0, "answer_too_long"),
        ("1", "x" * 257, {}, 0.0, "bad_label"),
        ("1", None, {}, 0.0, "bad_label"),
        ("x+1", "1+x", {"symbolic": False}, 0.0, "ok"),
    ],
)
def test_the_reason_why_an_answer_earned_nothing(
    given: str, label: Any, options: dict[str, Any], acc: float, reason: str
) -> None:
    result = compute_score("policy/x", f"{T}\\boxed{{{given}}}", label, **options)
    assert (result["acc"], result["reason"]) == (acc, reason)


@pytest.mark.parametrize(
    ("found", "reason"),
    [("limit", "symbolic_limit"), ("unavailable", "symbolic_unavailable"), ("too_long", "answer_too_long"),
     ("equal", "ok"), ("different", "ok")],
)  # fmt: skip
def test_what_became_of_the_symbolic_check_is_returned(
    found: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CHECKER, "compare", lambda gold, given: found)
    result = compute_score("policy/x", T + "\\boxed{x+1}", "1+x")
    assert (result["acc"], result["reason"]) == (float(found == "equal"), reason)
    # A fault of the form is not hidden by a check that worked.
    assert compute_score("policy/x", "\\boxed{x+1}", "1+x")["reason"] == (reason if reason != "ok" else "no_think")


@pytest.mark.parametrize("options", [{"format_weight": 1.1}, {"tolerance": -0.1}, {"tolerance": 1.0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tolerance in"):
        compute_score("policy/x", "", "1", **options)


@pytest.mark.parametrize(
    "text",
    ["{" * 256, "(" * 256, "1" * 256, "1 " * 128, "1," * 128, "A. " * 85, "A," * 128, "$" * 256, "\\text{" * 42,
     "- " * 128,
     "m " * 128, "m/" * 128, "1-" * 128, "\\frac" * 51, "**" * 128, "e9" * 128, "½" * 256, "²" * 256, "['" + "[" * 250,
     "1e999", "\ud800", "\x00", "x=" * 128, "answer " * 36, "per " * 64, "1 m^9" + " m^9" * 62],
)  # fmt: skip
def test_hostile_texts_as_answer_and_label(text: str) -> None:
    for label in (text, "C", "10 cm", "1/2", "A, C", "yes"):
        same, reason = compare(text, label, symbolic=False)
        assert reason in set(Reason)
        assert not same or label == text or normalise(text) == normalise(label)
        compare(label, text, symbolic=False)
