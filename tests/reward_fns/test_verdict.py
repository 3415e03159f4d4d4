"""The verdict parser against its table of hand-made cases."""

import pytest

from reward_fns.verdict import Reason, closing_brace, parse_verdict, read_phrase
from tests.reward_fns.verdict_cases import ILL_FORMED, LENIENT, NO_CHOICE, OK

STRICT = (
    [(why, text, choice, "ok") for why, text, choice in OK]
    + ILL_FORMED
    + [(why, text, None, reason) for why, text, reason in NO_CHOICE]
)


def test_the_table_is_large_and_names_each_case_once():
    whys = [case[0] for case in STRICT]
    assert len(STRICT) >= 200
    assert {Reason(case[3]) for case in STRICT} == set(Reason) - {Reason.LENIENT, Reason.BAD_LABEL, Reason.NO_ROUTE}
    assert len({(why, str(text)[:200]) for why, text, *_ in STRICT}) == len(whys)


@pytest.mark.parametrize(("why", "text", "choice", "reason"), STRICT, ids=[case[0] for case in STRICT])
def test_strict(why, text, choice, reason):
    verdict = parse_verdict(text)
    assert (verdict.choice, verdict.reason.value) == (choice, reason), why
    assert verdict.well_formed is (reason == "ok")


@pytest.mark.parametrize(("why", "text", "choice"), LENIENT, ids=[case[0] for case in LENIENT])
def test_lenient(why, text, choice):
    assert parse_verdict(text, policy="lenient").choice == choice, why


@pytest.mark.parametrize(("why", "text", "choice", "reason"), STRICT, ids=[case[0] for case in STRICT])
def test_lenient_agrees_wherever_strict_finds_a_choice(why, text, choice, reason):
    lenient = parse_verdict(text, policy="lenient")
    if choice is not None:
        assert lenient == parse_verdict(text)
    else:
        assert not lenient.well_formed
        assert (lenient.choice is None) or lenient.reason is Reason.LENIENT


@pytest.mark.parametrize(
    ("text", "choice", "reason"),
    [
        ("The first.</think>\\boxed{1}", "1", "ok"),
        ("<think>The first.</think>\\boxed{1}", "1", "ok"),  # the model repeats the tag of its template
        ("\\boxed{2} hm</think>\\boxed{1}", "1", "ok"),
        ("</think>\\boxed{1}", "1", "empty_think"),
        ("The first. \\boxed{1}", None, "unclosed_think"),
        ("a<think>b</think>\\boxed{1}", "1", "extra_think"),
        ("a</think>b</think>\\boxed{1}", "1", "extra_think"),
    ],
)
def test_a_template_that_opens_the_thoughts(text, choice, reason):
    verdict = parse_verdict(text, prefilled=True)
    assert (verdict.choice, verdict.reason.value) == (choice, reason)


def test_choices_beyond_two():
    five = ("1", "2", "3", "4", "5")
    assert parse_verdict("<think>a</think>\\boxed{5}", choices=five).choice == "5"
    assert parse_verdict("<think>a</think>\\boxed{6}", choices=five).choice is None
    assert parse_verdict("<think>a</think>\\boxed{tie}", choices=five).choice is None
    assert read_phrase("Response C", five) == "3"
    assert read_phrase("the fifth answer", five) == "5"


def test_an_unknown_policy_is_our_fault():
    with pytest.raises(ValueError, match="strict"):
        parse_verdict("x", policy="loose")  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "at"), [("}", 0), ("a}b", 1), ("{}}", 2), ("\\}}", 2), ("{", -1), ("", -1)])
def test_closing_brace(text, at):
    assert closing_brace(text, 0) == at
