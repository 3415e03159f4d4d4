"""The settings under ``critic_r1.group_reward``, checked before a run starts.

They say where the critic is, how it is asked and how its judgements become scores; the reward manager that uses them is
`recipe.critic_r1.training.group_reward`.
"""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.judging.address import NO_KEY, Address, choose_key
from reward_fns.chat_judge import ChatJudge
from reward_fns.critic_groups import CriticGroups

logger = logging.getLogger(__name__)

JUDGES = ("url", "frozen", "self")

OWN_TRAINER = "critic_sync"
"""The trainer mode that tells reward workers where the rollout servers are."""

SHARED = "shared"
"""The ``critic_r1.image_path`` whose rollout sends whole groups."""

NEEDS_ONE_WORKER = (
    "verl's own rollout sends the responses of a prompt to different reward workers: set reward.num_workers=1, so that "
    "critic_r1.group_reward sees whole groups"
)

_OPTIONS_OF_CRITIC = set(inspect.signature(ChatJudge).parameters) - {"url", "model", "api_key"}
_OPTIONS_OF_GROUPS = {one.name for one in fields(CriticGroups)}
_OWN_OPTIONS = {"judge", "url", "model", "wait_seconds"}


@dataclass(frozen=True)
class JudgeSettings:
    """``critic_r1.group_reward`` of a configuration, checked.

    place: address and model of the critic; None for the policy itself.
    critic: options of `reward_fns.chat_judge.ChatJudge`.
    policy: the same for greedy responses of the policy; None where they are not asked for.
    """

    place: tuple[str, str] | None
    critic: dict[str, Any]
    policy: dict[str, Any] | None
    groups: CriticGroups
    wait_seconds: float
    own: bool
    """Whether the server is one of this run."""

    @classmethod
    def of(cls, config: DictConfig, router: str | None) -> "JudgeSettings":
        """
        Args:
            router: address of verl's reward model, where there is one.

        Raises:
            ValueError: a setting that is missing, unknown or out of range.
        """
        given = OmegaConf.select(config, "critic_r1.group_reward") or OmegaConf.create({})
        settings: dict[str, Any] = OmegaConf.to_container(given, resolve=True)  # type: ignore[assignment]
        if unknown := sorted(set(settings) - _OWN_OPTIONS - _OPTIONS_OF_CRITIC - _OPTIONS_OF_GROUPS):
            known = sorted(_OWN_OPTIONS | _OPTIONS_OF_CRITIC | _OPTIONS_OF_GROUPS)
            raise ValueError(f"critic_r1.group_reward has no option {unknown[0]}; its options are {', '.join(known)}")
        place = _place(config, settings, router)
        critic = {name: value for name, value in settings.items() if name in _OPTIONS_OF_CRITIC}
        own = settings.get("judge", "url") != "url"
        if own:
            critic.setdefault("direct", True)  # a server of this cluster
        wait = settings.get("wait_seconds", 1800)
        try:
            ChatJudge(*(place or ("http://rollout/v1", None)), **critic).about("")
            groups = CriticGroups(**{name: value for name, value in settings.items() if name in _OPTIONS_OF_GROUPS})
            if not float(wait) > 0:
                raise ValueError(f"wait_seconds must be positive, not {wait!r}")
        except (ValueError, TypeError) as error:
            raise ValueError(f"critic_r1.group_reward: {error}") from error
        policy = None
        if groups.reference == "greedy":
            _check_policy_can_be_asked(config, "reference=greedy", "reference: truth with answers in ground_truth")
            policy = _greedy(config, critic) | {"timeout": float(wait)}
        return cls(place, critic, policy, groups, float(wait), own)

    def key(self) -> str:
        """The API key of the critic's server; none for a server of this run."""
        return NO_KEY if self.own or self.place is None else choose_key("", self.place[0], logger.warning)


def asks_the_policy(config: DictConfig) -> bool:
    """Whether the manager must know the rollout servers."""
    given = OmegaConf.select(config, "critic_r1.group_reward") or {}
    return given.get("judge") == "self" or given.get("reference") == "greedy"


def _place(config: DictConfig, settings: Mapping[str, Any], router: str | None) -> tuple[str, str] | None:
    """Address and model of the critic; None for the policy itself, whose servers the trainer names later."""
    judge = settings.get("judge", "url")
    if judge not in JUDGES:
        raise ValueError(f"critic_r1.group_reward.judge={judge!r}; choose one of {', '.join(JUDGES)}")
    if judge == "self":
        if settings.get("url") or settings.get("model"):
            raise ValueError("critic_r1.group_reward.judge=self asks the policy itself: leave out url and model")
        _check_policy_can_be_asked(config, "judge=self", "judge: frozen or url")
        return None
    reward_model = config.reward.reward_model
    if judge == "url":
        if not settings.get("url") or not settings.get("model"):
            raise ValueError(
                "critic_r1.group_reward needs url (http://HOST:PORT/v1) and model, or judge: frozen or self"
            )
        return Address(str(settings["url"])).url, str(settings["model"])
    if not reward_model.enable or not reward_model.enable_resource_pool or not router:
        raise ValueError(
            "critic_r1.group_reward.judge=frozen asks verl's reward model while responses are generated: set "
            "reward.reward_model.enable=true, reward.reward_model.enable_resource_pool=true and its n_gpus_per_node "
            "and nnodes; a colocated reward model is asleep by then"
        )
    return f"http://{router}/v1", str(settings.get("model") or reward_model.model_path)


def _check_policy_can_be_asked(config: DictConfig, setting: str, instead: str) -> None:
    """
    Raises:
        ValueError: the trainer does not name its rollout servers, or they would answer for another model.
    """
    if (mode := OmegaConf.select(config, "trainer.v1.trainer_mode")) != OWN_TRAINER:
        raise ValueError(
            f"critic_r1.group_reward.{setting} needs trainer.v1.trainer_mode={OWN_TRAINER}, not {mode}: other trainers "
            "do not name their rollout servers, and an asynchronous one changes their weights under way. With those, "
            f"set {instead}"
        )
    model = config.actor_rollout_ref.model
    if model.get("lora_rank", 0) > 0 and not OmegaConf.select(model, "lora.merge"):
        raise ValueError(
            f"critic_r1.group_reward.{setting} with LoRA would ask the base model, without its adapters: set "
            f"actor_rollout_ref.model.lora.merge=true, or {instead}"
        )


def _greedy(config: DictConfig, critic: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the `ChatJudge` that asks the policy: the limits of the run's rollouts, the retries of its critic.

    Raises:
        ValueError: a prompt template that the rollout servers do not know.
    """
    if OmegaConf.select(config, "actor_rollout_ref.model.custom_chat_template"):
        raise ValueError(
            "critic_r1.group_reward.reference=greedy: the rollout servers use the template in the model's folder, not "
            "actor_rollout_ref.model.custom_chat_template: save it there as chat_template.jinja"
        )
    retries = {name: critic[name] for name in ("attempts", "first_pause", "concurrency") if name in critic}
    template = OmegaConf.to_container(OmegaConf.create(config.data.get("apply_chat_template_kwargs") or {}))
    body = {"extra_body": {"chat_template_kwargs": template}} if template else {}
    return retries | body | {"max_tokens": int(config.data.max_response_length), "temperature": 0.0, "direct": True}
