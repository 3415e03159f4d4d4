"""Routes and options of the reward for mixed files."""

from typing import Any

import pytest

from reward_fns import mixed, preference

T = "<think>A reason.</think>"


@pytest.mark.parametrize(
    ("source", "answer", "label", "kind"),
    [
        ("critic/digits", "2", "2", "preference"),
        ("critic_score/x", "7", "7", "pointwise"),
        ("critic_nway/x", "3", "3", "nway"),
        ("policy/digits", "7", "7", "answer"),
    ],
)
def test_score(source: str, answer: str, label: str, kind: str) -> None:
    result = mixed.compute_score(source, f"{T}\\boxed{{{answer}}}", label)
    assert (result["score"], result["kind"]) == (1.0, kind)
    mixed.check_ground_truth(source, label)
    assert list(result) == [*preference.compute_score("critic/x", "", "1"), "kind"]


def test_routes_and_options() -> None:
    tie = ("critic/x", T + "\\boxed{tie}", "1")
    assert mixed.compute_score(*tie, preference={"tie_credit": 0.5})["credit"] == 0.5
    assert mixed.compute_score(*tie, answer={"symbolic": False})["credit"] == 0.0
    assert mixed.compute_score("mine/x", T + "\\boxed{7}", "7", routes={"mine/": "answer"})["score"] == 1.0
    assert mixed.route("critic/special/x", {"critic/special/": "answer"}) == "answer"
    lost = mixed.compute_score("gsm8k", T + "\\boxed{7}", "7")
    assert (lost["score"], lost["reason"], lost["kind"]) == (0.0, "no_route", "")
    assert list(lost) == list(mixed.compute_score("policy/x", "", "7"))
    with pytest.raises(ValueError, match="no reward for data_source 'gsm8k'"):
        mixed.check_ground_truth("gsm8k", "7")


@pytest.mark.parametrize("options", [{"policy": {"symbolic": False}}, {"routes": {"mine/": "policy"}}])
def test_a_reward_that_does_not_exist_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'policy'.* is not a reward; the rewards are preference, pointwise, nway, "):
        mixed.compute_score("mine/x", "", "7", **options)


def test_what_managers_pass_along_is_ignored() -> None:
    extra: dict[str, Any] = {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": None}
    assert mixed.compute_score("critic/x", "", "1", **extra) == mixed.compute_score("critic/x", "", "1")
