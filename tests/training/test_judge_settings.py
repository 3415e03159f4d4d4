"""The settings of a critic that rewards groups: what is refused, and who is sent a key."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.critic_r1.training.group_reward import CriticGroupRewardManager
from recipe.critic_r1.training.judge_settings import asks_the_policy
from tests.training.test_group_reward import GREEDY, Letters, settings


@pytest.mark.parametrize(
    ("own", "url", "environment", "key", "direct"),
    [
        ({}, "http://far/v1", {"OPENAI_API_KEY": "a"}, "EMPTY", False),
        ({}, "https://far/v1", {"OPENAI_API_KEY": "a"}, "a", False),
        ({}, "http://far/v1", {"CRITIC_R1_API_KEY": "b", "OPENAI_API_KEY": "a"}, "b", False),
        ({"direct": True}, "http://far/v1", {}, "EMPTY", True),
        ({}, "http://127.0.0.1:1/v1", {}, "EMPTY", True),
        ({"judge": "self", "model": None}, None, {"CRITIC_R1_API_KEY": "b"}, "EMPTY", True),
    ],
)
def test_a_key_and_a_proxy_are_for_servers_elsewhere(
    own: dict[str, Any],
    url: str | None,
    environment: dict[str, str],
    key: str,
    direct: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "CRITIC_R1_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    manager = CriticGroupRewardManager(settings(**({"url": url} | own)), Letters(), None)
    if own.get("judge") == "self":
        manager.use_rollout_servers(["10.0.0.1:8000"])
    (critic,) = manager._critics
    assert (critic._api_key, critic._direct) == (key, direct)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("trainer.v1.trainer_mode", "colocate_async", "trainer_mode=critic_sync, not colocate_async"),
        ("trainer.v1.trainer_mode", None, "trainer_mode=critic_sync, not None"),  # verl's own trainer
        ("actor_rollout_ref.model.lora_rank", 8, "without its adapters"),
    ],
)
@pytest.mark.parametrize(
    ("own", "instead"),
    [
        ({"judge": "self", "url": None, "model": None}, "judge: frozen or url"),
        (GREEDY, "reference: truth with answers in ground_truth"),
    ],
)
def test_runs_in_which_the_policy_cannot_be_asked_are_refused(
    key: str, value: object, named: str, own: dict[str, Any], instead: str
) -> None:
    config = settings(**own)
    OmegaConf.update(config, key, value, force_add=True)
    with pytest.raises(ValueError, match=f"{named}.*{instead}"):
        CriticGroupRewardManager(config, Letters(), None)
    assert asks_the_policy(config)
    assert not asks_the_policy(settings())
    assert not asks_the_policy(OmegaConf.create({}))


def test_a_template_that_the_rollout_servers_do_not_know_is_refused() -> None:
    config = settings(**GREEDY)
    config.actor_rollout_ref.model.custom_chat_template = "{{ messages }}"
    with pytest.raises(ValueError, match="custom_chat_template"):
        CriticGroupRewardManager(config, Letters(), None)


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"url": None}, "needs url"),
        ({"model": ""}, "needs url"),
        ({"judge": "sself"}, "url, frozen, self"),
        ({"judge": "self"}, "leave out url and model"),
        ({"judge": "self", "url": None, "model": None, "attempts": 0}, "attempts"),
        ({"judge": "frozen"}, "enable_resource_pool"),
        ({"sheme": "win_rate"}, "no option sheme"),
        ({"api_key": "secret"}, "no option api_key"),
        ({"scheme": "best"}, "knock_out"),
        ({"orders": "one"}, "orders must be one of both, drawn"),
        ({"reference": "greedy"}, "reference=greedy is for scheme=margin"),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_settings_are_checked_before_the_first_step(own: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CriticGroupRewardManager(settings(**own), Letters(), None)
