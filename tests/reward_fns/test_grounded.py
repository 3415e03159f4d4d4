"""The grounded chain: its form, its scores against the verdict, what it pays, and hostile text in linear time."""

import pytest

from data_prep.tasks.prompts import DRAWN, get_template
from reward_fns import preference
from reward_fns.grounded import PARTS, compute_score, read_chain
from tests.reward_fns.test_contract import HOSTILE

PART = {"Observations:": "a 7", "Claims:": "1 says 7, 2 says 3", "Verification:": "7 holds", "Evaluation:": "1",
        "Scores:": "Response 1: 8, Response 2: 3.5"}  # fmt: skip


def chain(**changes: str) -> str:
    parts = {**PART, **{f"{name}:": text for name, text in changes.items()}}
    return "\n".join(f"{name} {text}" for name, text in parts.items())


def response(thoughts: str, choice: str = "1") -> str:
    return f"<think>{thoughts}</think>\\boxed{{{choice}}}"


@pytest.mark.parametrize(
    ("thoughts", "reason"),
    [
        (chain(), "ok"),
        (chain().replace("\n", "\n\n"), "ok"),
        ("First I look.\n" + chain(), "ok"),
        (chain(Scores="Response 1: 10\nResponse 2: 0"), "ok"),
        (chain(Scores="Response 2: 3 and Response 1: 4"), "ok"),
        (chain().replace("Claims:", "claims:"), "missing_part"),
        (chain().replace("\n", " "), "missing_part"),
        (chain() + "\nClaims: more", "repeated_part"),
        ("\n".join(f"{name} {PART[name]}" for name in reversed(PARTS)), "unordered_parts"),
        (chain(Verification="  "), "empty_part"),
        (chain(Scores="Response 1: 8"), "no_scores"),
        (chain(Scores="Response 1: 8, Response 1: 3"), "no_scores"),
        (chain(Scores="Response 1: 8, Response 2: 3, Response 2: 9"), "no_scores"),
        (chain(Scores="Response 1: 11, Response 2: 3"), "no_scores"),
        (chain(Scores="Response 1: 8.123, Response 2: 3"), "no_scores"),
        (chain(Scores="Response 1: eight, Response 2: three"), "no_scores"),
        ("", "missing_part"),
    ],
)
def test_the_form(thoughts: str, reason: str) -> None:
    found = compute_score("critic/x", response(thoughts), "1")
    assert (found["chain_reason"], found["chain"]) == (reason, float(reason == "ok"))
    assert read_chain(thoughts)[0] == reason


@pytest.mark.parametrize(
    ("scores", "choice", "label", "options", "expected"),
    [
        ("Response 1: 8, Response 2: 3", "1", "1", {}, ("ok", 1.0)),
        ("Response 1: 3, Response 2: 8", "1", "1", {}, ("scores_disagree", 0.9)),
        ("Response 1: 5, Response 2: 5", "tie", "tie", {}, ("ok", 1.0)),
        ("Response 1: 5, Response 2: 5", "1", "1", {}, ("scores_disagree", 0.9)),
        ("Response 1: 8, Response 2: 3", "1", "2", {}, ("ok", 0.09)),
        ("Response 1: 8, Response 2: 3", "1", "2", {"right_only": False}, ("ok", 0.19)),
        ("Response 1: 8, Response 2: 3", "1", "1", {"chain_weight": 0.5, "format_weight": 0.2}, ("ok", 1.0)),
        ("Response 1: 3, Response 2: 8", "1", "1", {"chain_weight": 0.5}, ("scores_disagree", 0.5)),
    ],
)
def test_what_it_pays(
    scores: str, choice: str, label: str, options: dict[str, float], expected: tuple[str, float]
) -> None:
    found = compute_score("critic/x", response(chain(Scores=scores), choice), label, **options)  # type: ignore[arg-type]
    assert (found["chain_reason"], found["score"]) == (expected[0], pytest.approx(expected[1]))


def test_a_chain_outside_the_thoughts_is_none() -> None:
    for text in (f"<think>Hm.</think>{chain()}\\boxed{{1}}", f"{chain()}\\boxed{{1}}", chain()):
        assert compute_score("critic/x", text, "1")["chain"] == 0.0
    assert compute_score("critic/x", f"{chain()}</think>\\boxed{{1}}", "1", prefilled=True)["chain"] == 1.0


@pytest.mark.timeout(60)  # a quadratic scan of the long ones takes minutes
def test_hostile_text_never_raises_and_is_read_in_linear_time() -> None:
    keys = [*preference.compute_score("critic/x", "", "1"), "chain", "chain_reason"]
    scores = ("Response 1: " * 50_000, "Response 1:" + " " * 500_000 + "1", "9" * 500_000)
    long = [response("\nObservations:" * 50_000), *(response(chain(Scores=text)) for text in scores)]
    for text in (*HOSTILE, *long):
        found = compute_score("critic/x", text, "1")  # type: ignore[arg-type]
        assert list(found) == keys
        assert 0.0 <= found["score"] <= 1.0


def test_a_weight_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="chain_weight"):
        compute_score("critic/x", "", "1", chain_weight=1.5)


@pytest.mark.parametrize("images", [(0, (0, 0)), (1, (0, 0)), (1, (1, 1))])
def test_the_template_asks_for_the_chain_whatever_the_pair_holds(images: tuple[int, tuple[int, int]]) -> None:
    prompt = get_template("grounded").render("q", "", "", n_images=images[0], response_images=images[1], ties=True)
    places = [prompt.index(f"\n{part}") for part in PARTS]
    assert places == sorted(places)
    assert "\\boxed{tie}" in prompt
    assert "grounded" not in DRAWN
    assert len(DRAWN) == 12
