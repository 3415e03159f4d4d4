"""The chains `rubric` and `scores`, and what all chains share: template, gold thoughts, linear time."""

import pytest

from data_prep.tasks.prompts import get_template
from reward_fns import preference
from reward_fns.grounded import CHAINS, compute_score, gold_thoughts, read_chain
from tests.reward_fns.test_contract import HOSTILE

SCORES = "Scores: Response 1: 3, Response 2: 8.5"
RUBRIC = "Rubric: names the digit (2), brief (1)\nEvaluation: 1 misreads it\n" + SCORES


def said(thoughts: str, choice: str) -> str:
    return f"<think>{thoughts}</think>\\boxed{{{choice}}}"


@pytest.mark.parametrize(
    ("chain", "thoughts", "choice", "label", "expected"),
    [
        ("rubric", RUBRIC, "2", "2", ("ok", 1.0)),
        ("rubric", RUBRIC, "2", "1", ("ok", 0.09)),
        ("rubric", RUBRIC, "1", "1", ("scores_disagree", 0.9)),
        ("rubric", SCORES, "2", "2", ("missing_part", 0.9)),
        ("rubric", "Evaluation: x\nRubric: y\n" + SCORES, "2", "2", ("unordered_parts", 0.9)),
        ("rubric", RUBRIC.replace("1 misreads it", ""), "2", "2", ("empty_part", 0.9)),
        ("rubric", RUBRIC.replace("8.5", "12"), "2", "2", ("no_scores", 0.9)),
        ("scores", "I look closely.\n" + SCORES, "2", "2", ("ok", 1.0)),
        ("scores", RUBRIC, "2", "2", ("ok", 1.0)),
        ("scores", SCORES, "2", "1", ("ok", 0.09)),
        ("scores", SCORES, "1", "1", ("scores_disagree", 0.9)),
        ("scores", "Scores: Response 1: 5, Response 2: 5.0", "tie", "tie", ("ok", 1.0)),
        ("scores", "Hm. " + SCORES, "2", "2", ("missing_part", 0.9)),  # the heading begins a line
        ("scores", f"{SCORES}\n{SCORES}", "2", "2", ("repeated_part", 0.9)),
        ("scores", "Hm.", "", "2", ("missing_part", 0.0)),
    ],
)
def test_what_a_chain_pays(chain: str, thoughts: str, choice: str, label: str, expected: tuple[str, float]) -> None:
    found = compute_score("critic/x", said(thoughts, choice), label, chain=chain)  # type: ignore[arg-type]
    assert (found["chain_reason"], found["score"]) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("images", [(0, (0, 0)), (1, (0, 0)), (1, (1, 1))])
def test_the_template_names_the_parts(chain: str, images: tuple[int, tuple[int, int]]) -> None:
    prompt = get_template(chain).render("q", "", "", n_images=images[0], response_images=images[1], ties=True)
    places = [prompt.index(f"\n{part}") for part in CHAINS[chain]]
    assert places == sorted(places)
    assert prompt.endswith("\\boxed{tie} if neither is better.")


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("label", ["1", "2", "tie"])
def test_gold_thoughts_are_unbroken(chain: str, label: str) -> None:
    thoughts = gold_thoughts(label, chain=chain)
    assert read_chain(thoughts, CHAINS[chain])[0] == "ok"
    assert compute_score("critic/x", said(thoughts, label), label, chain=chain)["score"] == 1.0  # type: ignore[arg-type]


@pytest.mark.timeout(60)  # a quadratic scan of the long ones takes minutes
@pytest.mark.parametrize("chain", CHAINS)
def test_hostile_text_never_raises_and_is_read_in_linear_time(chain: str) -> None:
    keys = [*preference.compute_score("critic/x", "", "1"), "chain", "chain_reason"]
    last = gold_thoughts("1", chain=chain).rpartition("Response 1:")[0]
    scores = ("Response 1: " * 50_000, "Response 1:" + " " * 500_000, "9" * 500_000)
    long = ["\nScores:" * 100_000, "\nRubric:" * 100_000, "\n" * 500_000, *(last + text for text in scores)]
    for text in (*HOSTILE, *(said(thoughts, "1") for thoughts in long)):
        found = compute_score("critic/x", text, "1", chain=chain)  # type: ignore[arg-type]
        assert list(found) == keys
        assert (found["chain"], 0.0 <= found["score"] <= 1.0) == (0.0, True)


def test_an_unknown_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="chain must be one of grounded, rubric, scores"):
        compute_score("critic/x", "", "1", chain="steps")  # type: ignore[arg-type]
