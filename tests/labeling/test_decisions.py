"""Which pairs are asked, and what is decided from the votes."""

import re
from typing import Any

import pytest

from recipe.critic_r1.judging.generation import Generation, Sampling
from recipe.critic_r1.judging.pairwise import Judgement, judgement_of
from recipe.critic_r1.labeling.labeler import Labeller, LabelSettings, ResponsePair, decide, judge_task
from tests.judging.fake_server import say
from tests.labeling.conftest import prompt


def judgements(forward: list[str] | None, backward: list[str] | None) -> tuple[ResponsePair, Judgement, Judgement]:
    """Judgements by the choices of the votes; None for a request that failed."""
    pair = ResponsePair(prompt("a", "b"), ("a", "b"))
    found = []
    for order, votes in enumerate((forward, backward)):
        task = judge_task(pair, order, LabelSettings(template="compact"))
        texts = () if votes is None else tuple(say(v) if v != "?" else "hm" for v in votes)
        found.append(judgement_of(task, Generation(texts, error="500" if votes is None else None)))
    return pair, found[0], found[1]


@pytest.mark.parametrize(
    ("forward", "backward", "outcome", "chosen", "confidence"),
    [
        (["1"], ["2"], "labelled", 0, 1.0),
        (["2"], ["1"], "labelled", 1, 1.0),
        (["1", "1", "1", "2"], ["2", "2", "2", "2"], "labelled", 0, 0.875),
        (["1", "1", "2"], ["2", "2", "2"], "labelled", 0, 5 / 6),
        (["1", "1", "2"], ["2", "2", "1"], "low_confidence", 0, 4 / 6),
        # An unreadable vote and a tie are votes for nobody: four of six.
        (["1", "1", "?"], ["2", "2", "tie"], "low_confidence", 0, 4 / 6),
        (["1"], ["1"], "inconsistent", None, None),
        (["2", "2"], ["2", "2"], "inconsistent", None, None),
        (["tie"], ["tie"], "tie", None, None),
        (["1"], ["tie"], "undecided", None, None),
        (["1", "2"], ["2", "2"], "undecided", None, None),
        (["?"], ["2"], "unreadable", None, None),
        (["1"], None, "request_failed", None, None),
        # Not taken for unreadable, although the other order is.
        (None, ["?"], "request_failed", None, None),
    ],
)
def test_decide(
    forward: list[str] | None, backward: list[str] | None, outcome: str, chosen: int | None, confidence: float | None
) -> None:
    found = decide(*judgements(forward, backward), LabelSettings(min_confidence=0.75))
    assert (found.outcome, found.chosen) == (outcome, chosen)
    assert found.confidence == pytest.approx(confidence)


def test_votes_are_told_as_the_pair_lists_its_responses() -> None:
    found = decide(*judgements(["1", "?"], ["2", "tie"]), LabelSettings())
    assert found.votes() == [["1", None], ["1", "tie"]]


@pytest.mark.parametrize("wrong", [{"min_confidence": 1.5}, {"max_pairs": 0}, {"val_share": 1.0}, {"template": "odd"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1|1 or more|no template"):
        LabelSettings(**wrong)


class Recorder:
    """A critic that answers 1 and remembers what it saw."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def generate(self, requests: Any) -> list[Generation]:
        self.requests += requests
        return [Generation((say(1),) * r.sampling.n) for r in requests]

    def pairs(self) -> list[tuple[str, ...]]:
        texts = ["".join(getattr(p, "text", "") for p in r.messages[0].parts) for r in self.requests]
        return [re.search(r"Response 1: (.*)\nResponse 2: (.*)\n", text).groups() for text in texts]  # type: ignore[union-attr]


def test_each_pair_is_asked_in_both_orders_with_its_votes() -> None:
    critic = Recorder()
    settings = LabelSettings(Sampling(temperature=1.0, n=3, seed=1), template="compact")
    Labeller(critic, settings)([prompt("a", "b", "c")])
    assert critic.pairs() == [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    assert {r.sampling.n for r in critic.requests} == {3}
    assert len({r.sampling.seed for r in critic.requests}) == 6


def test_equal_responses_never_meet_and_equal_pairs_are_asked_once() -> None:
    critic = Recorder()
    labeller = Labeller(critic, LabelSettings(template="compact"))
    labeller([prompt("a", "a", "b"), prompt("b", "a"), prompt("a", "b", shade=1), prompt("c", "c")])
    assert critic.pairs() == [("a", "b"), ("b", "a")] * 2, "another image is another pair"
    tally = labeller.tally.as_dict()
    assert tally["pairs"] == {"duplicate": 1, "inconsistent": 2}
    assert tally["prompts"] == {"read": 4, "used": 3, "too-few-responses": 1}
    assert tally["responses"] == {"given": 9, "repeated": 2}
    assert [lost.reason for lost in labeller.lost] == ["too-few-responses"]


def test_more_pairs_than_wanted_are_sampled_by_seed_and_counted() -> None:
    def asked(seed: int) -> set[frozenset[str]]:
        critic = Recorder()
        labeller = Labeller(critic, LabelSettings(template="compact", max_pairs=4, seed=seed))
        labeller([prompt(*"abcdef")])
        assert labeller.tally.pairs["not_drawn"] == 15 - 4
        assert labeller.tally.pairs["inconsistent"] == 4
        return {frozenset(pair) for pair in critic.pairs()}

    assert len(asked(0)) == 4
    assert asked(0) == asked(0)
    assert len({frozenset(asked(seed)) for seed in range(5)}) > 1


def test_responses_given_most_often_are_compared_first() -> None:
    """Of four answers three were given more than once: of six pairs these three are kept."""
    critic = Recorder()
    labeller = Labeller(critic, LabelSettings(template="compact", max_pairs=3))
    labeller([prompt(*"9375375")])
    assert {frozenset(pair) for pair in critic.pairs()} == {frozenset("37"), frozenset("35"), frozenset("57")}
    assert labeller.tally.pairs["not_drawn"] == 3
