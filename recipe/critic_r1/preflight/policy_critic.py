"""A critic that rewards the policy (`variant=policy_by_critic`): its settings, whether it answers, what guards it."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.data_files import files
from recipe.critic_r1.preflight.finding import Finding

MANAGER = "recipe.critic_r1.training.group_reward"

SECONDS = 5.0
"""Of the wait for the critic's server."""


def settings(config: DictConfig) -> Iterator[Finding]:
    """``critic_r1.group_reward`` and ``critic_r1.probe`` are complete and in range."""
    from recipe.critic_r1.training.critic_probe import ProbeSettings
    from recipe.critic_r1.training.group_reward import NEEDS_ONE_WORKER, SHARED, JudgeSettings

    if not str(OmegaConf.select(config, "reward.reward_manager.module.path")).endswith(MANAGER):
        return
    try:
        judge = JudgeSettings.of(config, "started-by-verl:1")
        probe = ProbeSettings.of(config)
        if probe is not None:
            probe.tasks()
    except (ValueError, OSError) as error:
        yield Finding("critic of the policy", "fail", str(error), "docs/self_improvement.md lists the settings.")
        return
    if config.reward.num_workers != 1 and config.critic_r1.image_path != SHARED:
        yield Finding("critic of the policy", "fail", NEEDS_ONE_WORKER, "reward.num_workers=1")
    if config.actor_rollout_ref.rollout.n < 2:
        yield Finding(
            "critic of the policy",
            "fail",
            "rollout.n=1: there is nothing to compare a response with",
            "actor_rollout_ref.rollout.n=8",
        )
    if judge.groups.scheme == "margin":
        yield Finding(
            "critic of the policy",
            "warn",
            "scheme=margin compares with ground_truth: labels take part in training",
            "scheme=knock_out, win_rate or bradley_terry needs none.",
        )
    if judge.place is None:
        yield from _own_critic(config, judge.critic.get("max_tokens", 1024), judge.groups.shown, probe is not None)
    elif config.critic_r1.group_reward.judge == "url":
        yield from _answers(judge.place[0])


def _own_critic(config: DictConfig, verdict: int, shown: str, probed: bool) -> Iterator[Finding]:
    if not probed:
        yield Finding(
            "critic of the policy",
            "warn",
            "judge=self without critic_r1.probe.files: nobody sees whether the critic drifts",
            "critic_r1.probe.files=HELD_OUT_CRITIC_ROWS.parquet",
        )
    if not any(source.startswith("critic") for path in files(config.data.train_files) for source in _sources(path)):
        yield Finding(
            "critic of the policy",
            "warn",
            "judge=self, and no critic row in data.train_files: nothing keeps the critic while the policy changes",
            "data.train_files=[QUESTIONS.parquet,CRITIC_ROWS.parquet]",
        )
    longest = config.data.max_response_length
    if verdict > longest:
        yield Finding(
            "critic of the policy",
            "warn",
            f"the rollout engine ends a verdict after data.max_response_length={longest} tokens, not {verdict}",
            f"+critic_r1.group_reward.max_tokens={longest}",
        )
    needed = 2 * longest + min(verdict, longest)
    if shown == "response" and needed > config.actor_rollout_ref.rollout.max_model_len:
        yield Finding(
            "critic of the policy",
            "warn",
            f"two responses and a verdict can take {needed} tokens beside question and image, and rollout.max_model_len"
            f" is {config.actor_rollout_ref.rollout.max_model_len}: the longest groups will be unjudged",
            "Raise actor_rollout_ref.rollout.max_model_len, or critic_r1.group_reward.shown=answer.",
        )


def _sources(path: object) -> set[str]:
    import pyarrow.parquet as pq

    try:
        return set(pq.read_table(path, columns=["data_source"])["data_source"].unique().to_pylist())
    except (OSError, KeyError, ValueError):
        return set()  # reported by the data check


def _answers(url: str) -> Iterator[Finding]:
    """Any answer of the server will do; the reward workers may see more of the network than this machine."""
    import httpx

    from recipe.critic_r1.judging.address import Address

    try:
        httpx.get(f"{url}/models", timeout=SECONDS, trust_env=not Address(url).loopback)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield Finding(
            "critic of the policy",
            "warn",
            f"nothing answers at critic_r1.group_reward.url={Address(url).shown} ({type(error).__name__}): all groups "
            "would be unjudged",
            "Start it: critic-r1 serve CRITIC --served-model-name NAME",
        )
