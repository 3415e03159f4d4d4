"""The variants of the critic task: each composes for the demo and for r1, and pays as docs/rewards.md says."""

from importlib import import_module
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.tasks.prompts import get_template
from reward_fns.grounded import gold_thoughts
from tests.config.test_configs import composed


def said(choice: str, thoughts: str = "I looked.") -> str:
    return f"<think>{thoughts}</think>\\boxed{{{choice}}}"


def chain(name: str, choice: str, scores: str = "") -> str:
    return said(choice, gold_thoughts(scores or choice, chain=name))


@pytest.mark.parametrize(
    ("variant", "label", "paid"),
    [
        *(
            (
                name,
                "1",
                [(chain(name, "1"), 1.0), (said("1"), 0.9), (chain(name, "1", "2"), 0.9), (chain(name, "2"), 0.09)],
            )
            for name in ("grounded", "rubric", "scores")
        ),
        ("nway", "3", [(said("3"), 1.0), (said("1"), 0.1), (said("17"), 0.0)]),
        ("nway", "2 > 1 = 3", [(said("2 > 1 = 3"), 1.0), (said("3 = 1 > 2"), 0.1), (said("2"), 0.0)]),
        ("swap_consistency", "1", [(said("1"), 1.0), (said("2"), 0.1)]),
        ("counterfactual", "1", [(said("1"), 1.0), (said("2"), 0.1), (said("tie"), 0.1)]),
        ("counterfactual", "tie", [(said("tie"), 1.0), (said("1"), 0.1), (said("2"), 0.1)]),
    ],
)
@pytest.mark.parametrize("run", ["demo", "r1"])
def test_what_a_variant_pays(variant: str, label: str, paid: list[tuple[str, float]], run: str) -> None:
    config = composed(run, f"{'+' if run == 'demo' else ''}variant={variant}")
    settings: Any = OmegaConf.to_container(config.reward.custom_reward_function, resolve=True)
    reward = import_module(settings["path"].removeprefix("pkg://"))
    options = settings.get("reward_kwargs") or {}
    reward.check_ground_truth(label)
    for response, score in paid:
        found = getattr(reward, settings["name"])("critic/x", response, label, {}, **options)
        assert found["score"] == pytest.approx(score), response
    assert (config.critic_r1.swap_consistency.weight > 0) == (variant in ("swap_consistency", "counterfactual"))
    if chain_name := options.get("chain"):
        assert get_template(chain_name).name == variant
