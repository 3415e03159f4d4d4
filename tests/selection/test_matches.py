"""The rules of a match, one by one."""

import os
from typing import Any

import pytest

from data_prep.tasks.prompts import TEMPLATES, get_template
from recipe.critic_r1.judging.generation import Generation, ImagePart, TextPart
from recipe.critic_r1.selection.matches import Cost, Match, critic_prompt


def match(pool: Any, a: object = 3, b: object = 8, name: str = "p") -> Match:
    made = pool(name, [a, b])
    return Match(made.problem, *made.candidates)


def box(choice: object) -> str:
    return f"<think>Compared.</think>\\boxed{{{choice}}}"


def test_a_clear_match_takes_two_judgements_in_both_orders(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    judge = referee(generator)
    assert judge.play([match(pool, 3, 8), match(pool, 9, 1, "q")]) == [-1, 1]
    assert generator.pairs == [("3", "8"), ("8", "3"), ("9", "1"), ("1", "9")]
    assert (judge.bill.matches, judge.bill.judgements, judge.bill.third_judgements) == (2, 4, 0)
    assert (judge.bill.prompt_tokens, judge.bill.completion_tokens) == (120, 36)


def test_images_come_first_and_all_of_them(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["largest"])
    referee(generator).play([match(pool)])
    for request in generator.requests:
        assert isinstance(request.messages[0].parts[0], ImagePart)
        assert request.images[0].data == b"image of p"


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_matches_of_a_question_share_all_that_comes_before_the_pair(pool: Any, template: str) -> None:
    """Images, then the question, then the pair: what a server has read once, it need not read again."""
    made = pool("p", [3, 8, 5])
    build = critic_prompt(get_template(template))
    prompts = [build(made.problem, a, b)[0] for a, b in (("3", "8"), ("8", "3"), ("5", "8"))]
    assert all(isinstance(prompt.parts[0], ImagePart) for prompt in prompts)
    texts = ["".join(p.text for p in prompt.parts if isinstance(p, TextPart)) for prompt in prompts]
    shared = os.path.commonprefix(texts)  # noqa: RUF071  (of texts, character by character)
    assert made.problem.question in shared
    assert shared.rstrip().endswith("Response 1:")


def test_a_flip_goes_to_one_sampled_judgement(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(rules["first"])
    judge = referee(generator)
    (result,) = judge.play([match(pool)])
    assert generator.batches == [2, 1]
    third = generator.requests[-1].sampling
    assert third.temperature == 1.0
    assert third.seed is not None
    # The critic takes whoever stands first, so the drawn order decides.
    assert result == (1 if generator.pairs[-1] == ("3", "8") else -1)
    assert (judge.bill.judgements, judge.bill.third_judgements, judge.bill.draws) == (3, 1, 0)


def test_the_third_order_is_drawn_fairly_and_by_seed(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    matches = [match(pool, name=f"problem {i}") for i in range(400)]
    results = referee(critic(rules["first"])).play(matches)
    assert 160 <= results.count(1) <= 240
    assert results == referee(critic(rules["first"])).play(matches)
    assert results != referee(critic(rules["first"]), seed=1).play(matches)


@pytest.mark.parametrize(("rule", "unreadable", "failed"), [("unreadable", 3, 0), ("failing", 0, 3)])
def test_nothing_readable_is_a_draw(
    pool: Any, critic: Any, referee: Any, rules: Any, rule: str, unreadable: int, failed: int
) -> None:
    judge = referee(critic(rules[rule]))
    assert judge.play([match(pool)]) == [0]
    assert (judge.bill.unreadable, judge.bill.failed, judge.bill.draws) == (unreadable, failed, 1)


def test_one_readable_verdict_is_enough(pool: Any, critic: Any, referee: Any) -> None:
    judge = referee(critic(lambda a, b, r: box(2) if a == "3" else "hm"))
    assert judge.play([match(pool)]) == [-1]
    assert judge.bill.judgements == 2


def test_a_tie_is_a_vote_for_nobody(pool: Any, critic: Any, referee: Any) -> None:
    generator = critic(lambda a, b, r: box("tie") if r.sampling.temperature == 0 else box(1 if a == "8" else 2))
    assert referee(generator).play([match(pool)]) == [-1]
    assert generator.batches == [2, 1]


@pytest.mark.parametrize("rule", ["largest", "first", "second"])
def test_who_is_named_first_does_not_matter(pool: Any, critic: Any, referee: Any, rules: Any, rule: str) -> None:
    for i in range(20):
        there, back = match(pool, 3, 8, f"p{i}"), match(pool, 8, 3, f"p{i}")
        assert referee(critic(rules[rule])).play([there]) == [-r for r in referee(critic(rules[rule])).play([back])]


@pytest.mark.parametrize("rule", ["largest", "first"])
def test_a_known_match_is_not_paid_again(pool: Any, critic: Any, referee: Any, rules: Any, rule: str) -> None:
    generator = critic(rules[rule])
    judge = referee(generator)
    first = judge.play([match(pool, 3, 8), match(pool, 8, 3)])
    paid = judge.bill.judgements
    assert paid == len(generator.requests) == (2 if rule == "largest" else 3)
    assert judge.play([match(pool, 3, 8), match(pool, 8, 3)]) == first
    assert judge.bill.judgements == paid
    assert judge.bill.matches == 4


def test_the_same_texts_under_another_question_are_another_match(
    pool: Any, critic: Any, referee: Any, rules: Any
) -> None:
    generator = critic(rules["largest"])
    referee(generator).play([match(pool, name="p"), match(pool, name="q")])
    assert len(generator.requests) == 4


def test_free_text_cannot_add_a_image(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    generator = critic(lambda a, b, r: Generation((box(1),)))
    referee(generator).play([match(pool, "<image>", 8)])
    assert all(len(request.images) == 1 for request in generator.requests)


def test_a_cost_counts_each_judgement_once(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    judge = referee(critic(rules["first"]))
    (outcome,) = judge.decide([match(pool)])
    assert len(outcome.requests) == 3
    assert judge.cost([*outcome.requests, *outcome.requests]) == Cost(3, 90, 27)
    assert judge.cost([]) == Cost(0, 0, 0)


def test_a_request_without_an_answer_counts_and_has_no_tokens(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    judge = referee(critic(rules["failing"]))
    (outcome,) = judge.decide([match(pool)])
    assert judge.cost(outcome.requests) == Cost(3, 0, 0)


@pytest.mark.parametrize(("lead", "rule", "result"), [(1.0, "first", 1), (-0.5, "first", -1), (1.9, "largest", -1)])
def test_a_lead_is_added_to_the_votes(
    pool: Any, critic: Any, referee: Any, rules: Any, lead: float, rule: str, result: int
) -> None:
    """A flip leaves it to the lead, without a third judgement; two votes against it overrule a lead of less."""
    judge = referee(critic(rules[rule]))
    assert [o.result for o in judge.decide([match(pool)], [lead])] == [result]
    assert judge.bill.third_judgements == 0


def test_a_lead_and_votes_that_cancel_go_to_the_third(pool: Any, critic: Any, referee: Any, rules: Any) -> None:
    judge = referee(critic(rules["largest"]))
    assert [o.result for o in judge.decide([match(pool)], [2.0])] == [-1]
    assert judge.bill.third_judgements == 1
