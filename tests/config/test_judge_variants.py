"""The variants of the critic task: each composes for the demo and for r1, and pays as docs/rewards.md says."""

import re
from importlib import import_module
from typing import Any

import pytest
import typer
from omegaconf import OmegaConf

from data_prep.tasks.prompts import TEMPLATES, get_template
from recipe.critic_r1.cli import app
from reward_fns.grounded import gold_thoughts
from tests.config.test_configs import CONFIG_DIR, composed, options

GROUP = typer.main.get_group(app)
PREPARE = GROUP.get_command(typer.Context(GROUP), "prepare")


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
    kwargs = settings.get("reward_kwargs") or {}
    reward.check_ground_truth(label)
    for response, score in paid:
        found = getattr(reward, settings["name"])("critic/x", response, label, {}, **kwargs)
        assert found["score"] == pytest.approx(score), response
    assert (config.critic_r1.swap_consistency.weight > 0) == (variant in ("swap_consistency", "counterfactual"))
    if chain_name := kwargs.get("chain"):
        assert get_template(chain_name).name == variant


def test_the_table_of_the_docs_names_variants_and_options_that_exist() -> None:
    section = (CONFIG_DIR.parents[2] / "docs" / "rewards.md").read_text().split("## Ways to judge")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    assert {row[0].strip("`") for row in rows} == {*options("variant")} - {"policy_by_critic", "self_improvement"}
    named = set(re.findall("--[a-z]+", " ".join(row[1] for row in rows)))
    assert PREPARE is not None
    assert named <= {option for parameter in PREPARE.params for option in parameter.opts}
    assert {row[1].split()[-1].strip("`") for row in rows if "--template" in row[1]} <= set(TEMPLATES)
