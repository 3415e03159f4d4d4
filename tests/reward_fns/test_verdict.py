"""The verdict parser against its table of hand-made cases."""

from typing import Any, get_args

import pytest

from reward_fns.verdict import Parsing, Reason, closing_brace, find_box, native_tags, parse_verdict, read_phrase
from tests.reward_fns.verdict_cases import ILL_FORMED, LENIENT, NO_CHOICE, OK, UNFINISHED

STRICT = (
    [(why, text, choice, "ok") for why, text, choice in OK]
    + ILL_FORMED
    + [(why, text, None, reason) for why, text, reason in NO_CHOICE]
)
ANSWER_REASONS = {
    Reason.ANSWER_TOO_LONG, Reason.UNKNOWN_UNIT, Reason.SYMBOLIC_LIMIT, Reason.SYMBOLIC_UNAVAILABLE,
}  # fmt: skip


def test_the_table_is_large_and_names_each_case_once() -> None:
    whys = [case[0] for case in STRICT]
    assert len(STRICT) >= 200
    others = {Reason.LENIENT, Reason.CUT_OFF, Reason.BAD_LABEL, Reason.NO_ROUTE, *ANSWER_REASONS}
    assert {Reason(case[3]) for case in STRICT} == set(Reason) - others
    assert len({(why, str(text)[:200]) for why, text, *_ in STRICT}) == len(whys)


@pytest.mark.parametrize(("why", "text", "choice", "reason"), STRICT, ids=[case[0] for case in STRICT])
def test_strict(why: str, text: Any, choice: str | None, reason: str) -> None:
    verdict = parse_verdict(text)
    assert (verdict.choice, verdict.reason.value) == (choice, reason), why
    assert verdict.well_formed is (reason == "ok")


@pytest.mark.parametrize(("why", "text", "choice"), LENIENT, ids=[case[0] for case in LENIENT])
def test_lenient(why: str, text: Any, choice: str | None) -> None:
    assert parse_verdict(text, parsing="lenient").choice == choice, why


@pytest.mark.parametrize(("why", "text", "choice", "reason"), STRICT, ids=[case[0] for case in STRICT])
def test_lenient_agrees_wherever_strict_finds_a_choice(why: str, text: Any, choice: str | None, reason: str) -> None:
    lenient = parse_verdict(text, parsing="lenient")
    if choice is not None:
        # The reason and the length of the thoughts differ only where lenient parsing knows the tags.
        assert lenient == parse_verdict(text) if native_tags(text) == text else lenient.choice == choice
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
def test_a_template_that_opens_the_thoughts(text: str, choice: str | None, reason: str) -> None:
    verdict = parse_verdict(text, prefilled=True)
    assert (verdict.choice, verdict.reason.value) == (choice, reason)


@pytest.mark.parametrize("parsing", get_args(Parsing))
@pytest.mark.parametrize(("why", "text", "choice", "reason"), UNFINISHED, ids=[case[0] for case in UNFINISHED])
def test_a_response_that_the_token_limit_ended(
    why: str, text: str, choice: str | None, reason: str, parsing: Parsing
) -> None:
    verdict = parse_verdict(text, parsing=parsing, finished=False)
    assert (verdict.choice, verdict.reason.value) == (choice, reason), why
    assert find_box(text, finished=False).reason.value == reason
    # A template that opened the block leaves no doubt: everything up to the closing tag is a thought.
    prefilled = parse_verdict(text, parsing=parsing, finished=False, prefilled=True)
    assert prefilled.choice == choice


def test_choices_beyond_two() -> None:
    five = ("1", "2", "3", "4", "5")
    assert parse_verdict("<think>a</think>\\boxed{5}", choices=five).choice == "5"
    assert parse_verdict("<think>a</think>\\boxed{6}", choices=five).choice is None
    assert parse_verdict("<think>a</think>\\boxed{tie}", choices=five).choice is None
    assert read_phrase("Response C", five) == "3"
    assert read_phrase("the fifth answer", five) == "5"


def test_an_unknown_parsing_is_an_error() -> None:
    with pytest.raises(ValueError, match="parsing must be 'strict' or 'lenient', not 'loose'"):
        parse_verdict("x", parsing="loose")  # type: ignore[arg-type]


def test_the_former_name_of_parsing() -> None:
    assert parse_verdict("[[A]]", policy="lenient") == parse_verdict("[[A]]", parsing="lenient")


@pytest.mark.parametrize(("text", "at"), [("}", 0), ("a}b", 1), ("{}}", 2), ("\\}}", 2), ("{", -1), ("", -1)])
def test_closing_brace(text: str, at: int) -> None:
    assert closing_brace(text, 0) == at
