"""verl's reward manager for a policy that a critic trains: the responses of a prompt are rewarded together.

verl calls a reward manager once for each response. This one gathers the responses of a prompt (`uid`) and has the
critic compare them (`reward_fns.critic_groups`). The reward function of the run (`reward.custom_reward_function`) is
called as well: its `format` and `pred` are kept, its `acc` is not. Held-out rows are scored by it alone; where a
validation samples several responses, the critic judges them too, and `judge_agreement` says how often it scores a right
response above a wrong one. Critic tasks (`data_source` = `critic...`) of a mixed data set are scored by their labels.

It is chosen by its place, in this recipe (`variant/policy_by_critic.yaml`) and with verl's own trainer alike:

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://recipe.critic_r1.training.group_reward
    reward.reward_manager.name=CriticGroupRewardManager

The recipe's rollout sends a whole group to one reward worker. verl's own picks a worker for each response, so that it
needs `reward.num_workers=1`; the manager waits on the network, not on the processor.
"""

import asyncio
import inspect
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from recipe.critic_r1.images.dataset import Message, image_items, opened
from recipe.critic_r1.judging.address import NO_KEY, Address, choose_key
from reward_fns.chat_judge import ChatJudge
from reward_fns.critic_groups import CriticGroups, JudgedGroup, question_of

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


@dataclass
class _Member:
    """A response that waits for the others of its prompt."""

    sample: int
    text: str
    scored: dict[str, Any]
    """What the reward function of the run returned."""


@dataclass
class _Group:
    size: int
    columns: Mapping[str, Any]
    """The prompt's columns, as the first member brought them."""

    members: list[_Member] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    judging: "asyncio.Task[dict[int, dict[str, Any]]] | None" = None
    """The rewards by sample."""


class CriticGroupRewardManager(NaiveRewardManager):  # type: ignore[misc]
    """Rewards the responses of a prompt by the critic's comparisons; settings under ``critic_r1.group_reward``.

    judge: `url`, a server of its own; `frozen`, verl's reward model (`reward.reward_model`) on GPUs of its own; or
        `self`, the policy's rollout engine with its present weights, while it generates the step's other responses.
    url, model: of the server, for `url`.
    wait_seconds: how long a response waits for the others of its prompt; past it the group is unjudged.
    Further keys are options of `reward_fns.critic_groups.CriticGroups` and `reward_fns.chat_judge.ChatJudge`. The
    server's API key is read from ``CRITIC_R1_API_KEY``, or from ``OPENAI_API_KEY`` where the address is https.

    Raises:
        ValueError: a setting that is missing, unknown or out of range.
    """

    sees_images = True
    """The recipe's rollout hands the images of ``raw_prompt`` only to a manager that asks for them."""

    def __init__(
        self,
        config: DictConfig,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score, reward_router_address, reward_model_tokenizer)
        settings = JudgeSettings.of(config, reward_router_address)
        self._critics: list[ChatJudge] = []
        self._critic_options = settings.critic
        if settings.place is not None:
            self._critics = [ChatJudge(*settings.place, api_key=settings.key(), **settings.critic)]
        self._groups = settings.groups
        self._wait_seconds = settings.wait_seconds
        self._group_size = int(config.actor_rollout_ref.rollout.n)
        self._one_worker = config.reward.num_workers == 1
        if not self._one_worker and OmegaConf.select(config, "critic_r1.image_path") != SHARED:
            raise ValueError(NEEDS_ONE_WORKER)
        self._waiting: dict[str, _Group] = {}

    def use_rollout_servers(self, addresses: Sequence[str]) -> None:
        """Ask these servers, `host:port` each, when the critic is the policy itself; the trainer calls this."""
        self._critics = [ChatJudge(f"http://{address}/v1", None, **self._critic_options) for address in addresses]

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The reward of one response; returns when its group is judged."""
        result: dict[str, Any] = await super().run_single(data)
        item = data[-1:][0]
        columns = item.non_tensor_batch
        held_out = _held_out(columns)
        if str(columns["data_source"]).startswith("critic") or (held_out and int(columns.get("group_size", 1)) < 2):
            return result
        if "group_size" not in columns and not self._one_worker:
            raise ValueError(NEEDS_ONE_WORKER)
        text = await self.loop.run_in_executor(None, self._text, item)
        group = self._waiting.get(columns["uid"])
        if group is None:
            group = _Group(int(columns.get("group_size", self._group_size)), columns)
            self._waiting[columns["uid"]] = group
            group.judging = asyncio.create_task(self._judge(group))
        member = _Member(int(columns["session_id"]), text, result["reward_extra_info"])
        group.members.append(member)
        if len(group.members) == group.size:
            group.complete.set()
            del self._waiting[columns["uid"]]
        assert group.judging is not None
        rewards = await group.judging
        if held_out:
            agreement = _agreement(group, rewards)
            told = {} if agreement is None else {"judge_agreement": agreement}
            return {**result, "reward_extra_info": result["reward_extra_info"] | told}
        extra = rewards[member.sample]
        return {"reward_score": extra["score"], "reward_extra_info": extra}

    def _critic_of(self, uid: str) -> ChatJudge:
        """One server for a group, which then has its images in its cache; groups are spread over the servers."""
        if not self._critics:
            raise RuntimeError("critic_r1.group_reward.judge=self: the trainer named no rollout server")
        return self._critics[zlib.crc32(uid.encode()) % len(self._critics)]

    def _text(self, item: Any) -> str:
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True))

    async def _judge(self, group: _Group) -> dict[int, dict[str, Any]]:
        """The rewards of a group by sample, once it is complete."""
        failure = ""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await group.complete.wait()
        except TimeoutError:
            self._waiting.pop(group.columns["uid"], None)
            failure = f"{len(group.members)} of {group.size} responses within {self._wait_seconds:g} seconds"
        members = sorted(group.members, key=lambda member: member.sample)
        if failure:
            judged = self._groups.unjudged([member.text for member in members], failure)
        else:
            judged = await self._compared(group.columns, members)
        return {member.sample: _reward(member, i, judged, members) for i, member in enumerate(members)}

    async def _compared(self, columns: Mapping[str, Any], members: Sequence[_Member]) -> JudgedGroup:
        """The rewards of a whole group, in the order of its members."""
        messages = list(columns["raw_prompt"])
        return await self._groups.score(
            self._critic_of(str(columns["uid"])),
            str((columns.get("extra_info") or {}).get("question") or question_of(messages)),
            (_image(item) for item in image_items(messages)),
            [member.text for member in members],
            formats=_formats(members),
            reference=columns["reward_model"].get("ground_truth"),
        )


@dataclass(frozen=True)
class JudgeSettings:
    """``critic_r1.group_reward`` of a configuration, checked.

    place: address and model of the critic; None for the policy itself.
    critic: options of `reward_fns.chat_judge.ChatJudge`.
    """

    place: tuple[str, str] | None
    critic: dict[str, Any]
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
        return cls(place, critic, groups, float(wait), own)

    def key(self) -> str:
        """The API key of the critic's server; none for a server of this run."""
        return NO_KEY if self.own or self.place is None else choose_key("", self.place[0], logger.warning)


def use_rollout_servers(worker: Any, addresses: Sequence[str]) -> None:
    """Name the rollout servers to the manager of a reward worker; runs in its process."""
    worker.reward_manager.use_rollout_servers(addresses)


def _place(config: DictConfig, settings: Mapping[str, Any], router: str | None) -> tuple[str, str] | None:
    """Address and model of the critic; None for the policy itself, whose servers the trainer names later."""
    judge = settings.get("judge", "url")
    if judge not in JUDGES:
        raise ValueError(f"critic_r1.group_reward.judge={judge!r}; choose one of {', '.join(JUDGES)}")
    if judge == "self":
        if settings.get("url") or settings.get("model"):
            raise ValueError("critic_r1.group_reward.judge=self asks the policy itself: leave out url and model")
        if (mode := OmegaConf.select(config, "trainer.v1.trainer_mode")) != OWN_TRAINER:
            raise ValueError(
                f"critic_r1.group_reward.judge=self needs trainer.v1.trainer_mode={OWN_TRAINER}, not {mode}: other "
                "trainers do not name their rollout servers, and an asynchronous one changes their weights under way"
            )
        model = config.actor_rollout_ref.model
        if model.get("lora_rank", 0) > 0 and not OmegaConf.select(model, "lora.merge"):
            raise ValueError(
                "critic_r1.group_reward.judge=self with LoRA would ask the base model, without its adapters: set "
                "actor_rollout_ref.model.lora.merge=true, or judge: frozen or url"
            )
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


def _held_out(columns: Mapping[str, Any]) -> bool:
    """Whether a row is one of a validation: as the recipe's rollout says, else by the row's split."""
    if "validate" in columns:
        return bool(columns["validate"])
    return bool((columns.get("extra_info") or {}).get("split", "train") != "train")


def _image(item: Message) -> Any:
    data = item.get("bytes")
    return data if isinstance(data, bytes) else opened(item)["image"]


def _formats(members: Sequence[_Member]) -> list[float] | None:
    """The forms as the run's reward function read them; None when it did not."""
    if any("format" not in member.scored for member in members):
        return None
    return [float(member.scored["format"]) for member in members]


def _reward(member: _Member, place: int, judged: JudgedGroup, members: Sequence[_Member]) -> dict[str, Any]:
    """verl's reward dict: the parts of the score, and the matches with the samples they were against."""
    reward = judged.rewards[place]
    matches = [
        {**match, "against": members[match["against"]].sample if match["against"] >= 0 else -1}
        for match in judged.matches[place]
    ]
    read: dict[str, Any] = {name: member.scored[name] for name in ("pred", "reason") if name in member.scored}
    if judged.failure:
        read["reason"] = reward["reason"]
    # `credit` of the answer reward is the truth.
    scored = {name: value for name, value in member.scored.items() if name != "credit"}
    return {**scored, **reward, **read, "matches": matches, "group": judged.metrics}


def _agreement(group: _Group, rewards: Mapping[int, Mapping[str, Any]]) -> float | None:
    """How often the critic scores a right response of a held-out group above a wrong one; 0.5 is chance.

    None for an unjudged group, and where all responses are right or all are wrong.
    """
    if any(reward["group"]["unjudged"] for reward in rewards.values()):
        return None
    right = [rewards[m.sample]["acc"] for m in group.members if float(m.scored.get("acc", 0.0)) > 0.5]
    wrong = [rewards[m.sample]["acc"] for m in group.members if float(m.scored.get("acc", 0.0)) <= 0.5]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    return sum(pairs) / len(pairs) if pairs else None
