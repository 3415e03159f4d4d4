"""A critic that rewards the policy (`variant=policy_by_critic`): its settings, its server, its safeguards."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.data_files import files
from recipe.critic_r1.preflight.finding import Finding

if TYPE_CHECKING:
    from recipe.critic_r1.training.judge_settings import JudgeSettings

MANAGER = "recipe.critic_r1.training.group_reward"

SECONDS = 5.0
"""Timeout for the critic's server."""

NAME = "critic of the policy"


def settings(config: DictConfig) -> Iterator[Finding]:
    """``critic_r1.group_reward`` and ``critic_r1.probe`` are complete and in range."""
    from recipe.critic_r1.training.critic_probe import ProbeSettings
    from recipe.critic_r1.training.judge_settings import NEEDS_ONE_WORKER, SHARED, JudgeSettings

    if not str(OmegaConf.select(config, "reward.reward_manager.module.path")).endswith(MANAGER):
        return
    try:
        judge = JudgeSettings.of(config, "started-by-verl:1")
        probe = ProbeSettings.of(config)
        if probe is not None:
            probe.tasks()
    except (ValueError, OSError) as error:
        yield Finding(NAME, "fail", str(error), "docs/self_improvement.md lists the settings.")
        return
    if config.reward.num_workers != 1 and config.critic_r1.image_path != SHARED:
        yield Finding(NAME, "fail", NEEDS_ONE_WORKER, "reward.num_workers=1")
    if config.actor_rollout_ref.rollout.n < 2:
        detail = "rollout.n=1: there is nothing to compare a response with"
        yield Finding(NAME, "fail", detail, "actor_rollout_ref.rollout.n=8")
    if judge.groups.scheme == "margin" and judge.groups.reference == "truth":
        detail = "scheme=margin compares with ground_truth, so labels are used in training"
        yield Finding(NAME, "warn", detail, "critic_r1.group_reward.reference=greedy, or another scheme.")
    if judge.place is None:
        yield from _own_critic(config, judge, probe is not None)
    elif config.critic_r1.group_reward.judge == "url":
        yield from _answers(judge.place[0])


def _own_critic(config: DictConfig, judge: "JudgeSettings", probed: bool) -> Iterator[Finding]:
    verdict = judge.critic.get("max_tokens", 1024)
    if not probed:
        detail = "judge=self without critic_r1.probe.files: drift of the critic would go unnoticed"
        yield Finding(NAME, "warn", detail, "critic_r1.probe.files=HELD_OUT_CRITIC_ROWS.parquet")
    if not any(source.startswith("critic") for path in files(config.data.train_files) for source in _sources(path)):
        detail = (
            "judge=self without critic rows in data.train_files: the critic is not trained while the policy changes"
        )
        yield Finding(NAME, "warn", detail, "data.train_files=[QUESTIONS.parquet,CRITIC_ROWS.parquet]")
    longest = config.data.max_response_length
    if verdict > longest:
        detail = f"the rollout engine ends a verdict after data.max_response_length={longest} tokens, not {verdict}"
        yield Finding(NAME, "warn", detail, f"+critic_r1.group_reward.max_tokens={longest}")
    shown = 1 if judge.groups.scheme == "pointwise" else 2
    needed, room = shown * longest + min(verdict, longest), config.actor_rollout_ref.rollout.max_model_len
    if judge.groups.shown == "response" and needed > room:
        yield Finding(
            NAME,
            "warn",
            f"{'two responses' if shown == 2 else 'a response'} and a verdict can take {needed} tokens, without "
            f"question and image, and rollout.max_model_len is {room}: the longest groups will not be judged",
            "Raise actor_rollout_ref.rollout.max_model_len, or critic_r1.group_reward.shown=answer.",
        )


def _sources(path: object) -> set[str]:
    import pyarrow.parquet as pq

    try:
        return set(pq.read_table(path, columns=["data_source"])["data_source"].unique().to_pylist())
    except (OSError, KeyError, ValueError):
        return set()  # reported by the data check


def _answers(url: str) -> Iterator[Finding]:
    """Any response will do. Only a warning: the reward workers may reach hosts that this machine does not."""
    import httpx

    from recipe.critic_r1.judging.address import Address

    try:
        httpx.get(f"{url}/models", timeout=SECONDS, trust_env=not Address(url).loopback)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        detail = (
            f"nothing answers at critic_r1.group_reward.url={Address(url).shown} ({type(error).__name__}): no group "
            "would be judged"
        )
        yield Finding(NAME, "warn", detail, "Start it: critic-r1 serve CRITIC --served-model-name NAME")
