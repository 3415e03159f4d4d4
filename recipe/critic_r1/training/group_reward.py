"""verl's reward manager for a policy that a critic trains: the responses of a prompt are rewarded together.

verl calls a reward manager once for each response. This one gathers the responses of a prompt (`uid`) and has the
critic judge them (`reward_fns.critic_groups`). The reward function of the run (`reward.custom_reward_function`) is
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
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from recipe.critic_r1.images.dataset import Message, image_items, is_image, opened
from recipe.critic_r1.training.judge_settings import NEEDS_ONE_WORKER, SHARED, JudgeSettings
from reward_fns.chat_judge import ChatJudge, data_url
from reward_fns.critic_groups import JudgedGroup, question_of

logger = logging.getLogger(__name__)


class _NoReference(RuntimeError):
    """The policy gave no greedy response."""


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
    """Rewards the responses of a prompt by the critic's judgements; settings under ``critic_r1.group_reward``.

    judge: `url`, a server of its own; `frozen`, verl's reward model (`reward.reward_model`) on GPUs of its own; or
        `self`, the policy's rollout engine with its present weights, while it generates the step's other responses.
    url, model: of the server, for `url`.
    wait_seconds: how long a response waits for the others of its prompt and, with `reference: greedy`, for the policy's
        greedy response, which one of the rollout servers is asked for once a prompt. Past it the group is unjudged.
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
        self._policies: list[ChatJudge] = []
        if settings.place is not None:
            self._critics = [ChatJudge(*settings.place, api_key=settings.key(), **settings.critic)]
        self._settings, self._groups, self._wait_seconds = settings, settings.groups, settings.wait_seconds
        self._group_size = int(config.actor_rollout_ref.rollout.n)
        self._one_worker = config.reward.num_workers == 1
        if not self._one_worker and OmegaConf.select(config, "critic_r1.image_path") != SHARED:
            raise ValueError(NEEDS_ONE_WORKER)
        self._waiting: dict[str, _Group] = {}

    def use_rollout_servers(self, addresses: Sequence[str]) -> None:
        """Ask these servers, `host:port` each, for what the policy itself must say; the trainer calls this."""
        urls = [f"http://{address}/v1" for address in addresses]
        if self._settings.place is None:
            self._critics = [ChatJudge(url, None, **self._settings.critic) for url in urls]
        if self._settings.policy is not None:
            self._policies = [ChatJudge(url, None, **self._settings.policy) for url in urls]

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

    def _text(self, item: Any) -> str:
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True))

    async def _judge(self, group: _Group) -> dict[int, dict[str, Any]]:
        """The rewards of a group by sample, once it is complete."""
        failure, reference = "", None
        asked = asyncio.create_task(self._reference(group.columns))
        try:
            async with asyncio.timeout(self._wait_seconds):
                await group.complete.wait()
                reference = await asked
        except TimeoutError:
            self._waiting.pop(group.columns["uid"], None)
            arrived = f"{len(group.members)} of {group.size} responses"
            missing = "no greedy response" if group.complete.is_set() else arrived
            failure = f"{missing} within {self._wait_seconds:g} seconds"
        except _NoReference as error:
            failure = str(error)
        finally:
            asked.cancel()
        members = sorted(group.members, key=lambda member: member.sample)
        if failure:
            judged = self._groups.unjudged([member.text for member in members], failure)
        else:
            judged = await self._compared(group.columns, members, reference)
        return {member.sample: _reward(member, i, judged, members) for i, member in enumerate(members)}

    async def _reference(self, columns: Mapping[str, Any]) -> str | None:
        """What `margin` compares with: the truth, or the policy's greedy response.

        Raises:
            _NoReference: the policy gave no response.
        """
        if self._settings.policy is None:
            truth: str | None = columns["reward_model"].get("ground_truth")
            return truth
        policy = _server(self._policies, columns)
        try:
            messages = await asyncio.to_thread(_chat, list(columns["raw_prompt"]))
            return (await policy.reply(messages)).texts[0]
        except Exception as error:  # whatever it is, it must not end the trainer's step
            raise _NoReference(f"no greedy response: {error}"[:300]) from error

    async def _compared(
        self, columns: Mapping[str, Any], members: Sequence[_Member], reference: str | None
    ) -> JudgedGroup:
        """The rewards of a whole group, in the order of its members."""
        messages = list(columns["raw_prompt"])
        return await self._groups.score(
            _server(self._critics, columns),
            str((columns.get("extra_info") or {}).get("question") or question_of(messages)),
            (_image(item) for item in image_items(messages)),
            [member.text for member in members],
            formats=_formats(members),
            reference=reference,
        )


def use_rollout_servers(worker: Any, addresses: Sequence[str]) -> None:
    """Name the rollout servers to the manager of a reward worker; runs in its process."""
    worker.reward_manager.use_rollout_servers(addresses)


def _server(servers: Sequence[ChatJudge], columns: Mapping[str, Any]) -> ChatJudge:
    """One server for a group, which then has its images in its cache; groups are spread over the servers.

    Raises:
        RuntimeError: there is none.
    """
    if not servers:
        raise RuntimeError("critic_r1.group_reward asks the policy, and the trainer named no rollout server")
    return servers[zlib.crc32(str(columns["uid"]).encode()) % len(servers)]


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A prompt in the form of the OpenAI chat protocol.

    Raises:
        ValueError, OSError: media other than images, or an image that cannot be sent.
    """

    def sent(item: Message) -> dict[str, Any]:
        if is_image(item):
            return {"type": "image_url", "image_url": {"url": data_url(_image(item))}}
        if item.get("type") != "text":
            raise ValueError(f"the prompt holds {item.get('type')!r}, and only text and images can be sent")
        return {"type": "text", "text": item["text"]}

    contents = [message["content"] for message in messages]
    return [
        {"role": message["role"], "content": content if isinstance(content, str) else [sent(item) for item in content]}
        for message, content in zip(messages, contents, strict=True)
    ]


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
        {**match, "against": members[match["against"]].sample} if match.get("against", -1) >= 0 else match
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
