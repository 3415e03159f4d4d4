"""Rewards that a critic's reward is compared with, as reward managers for `reward.reward_manager`.

`ShuffledGroups` asks the critic and gives its scores to other answers; `MajorityGroups` asks nobody and pays the most
frequent answer. For measurements only.
"""

import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recipe.critic_r1.training.group_reward import CriticGroupRewardManager, _formats, _Member
from reward_fns.critic_groups import JudgedGroup
from reward_fns.group import GroupScores, rewards


def _answers(members: Sequence[_Member]) -> list[str]:
    return [str(member.scored.get("pred", "")) for member in members]


class ShuffledGroups(CriticGroupRewardManager):
    """The critic's scores, exchanged among the different answers of a group: equal spread and cost, no information."""

    async def _compared(
        self, columns: Mapping[str, Any], members: Sequence[_Member], reference: str | None
    ) -> JudgedGroup:
        judged = await super()._compared(columns, members, reference)
        if judged.failure:
            return judged
        answers = _answers(members)
        given = {answer: reward["acc"] for answer, reward in zip(answers, judged.rewards, strict=True) if answer}
        scores = list(given.values())
        random.Random(zlib.crc32(str(columns["uid"]).encode())).shuffle(scores)
        shuffled = dict(zip(given, scores, strict=True))
        group = GroupScores([shuffled.get(answer, 0.0) for answer in answers])
        formats = [reward["format"] for reward in judged.rewards]
        return replace(judged, rewards=rewards(group, formats, format_weight=self._groups.format_weight))


class MajorityGroups(CriticGroupRewardManager):
    """1 for the most frequent answer of a group, the first of equally frequent ones; 0 for every other."""

    async def _compared(
        self, columns: Mapping[str, Any], members: Sequence[_Member], reference: str | None
    ) -> JudgedGroup:
        answers = _answers(members)
        counts = Counter(answer for answer in answers if answer)
        (top, _), *_ = counts.most_common(1) or [("", 0)]
        group = GroupScores([float(bool(answer) and answer == top) for answer in answers])
        formats = _formats(members) or [0.0] * len(members)
        costs = dict.fromkeys(("unjudged", "prompt_tokens", "completion_tokens", "seconds"), 0.0)
        paid = rewards(group, formats, format_weight=self._groups.format_weight)
        return JudgedGroup(paid, [[] for _ in members], group.metrics() | costs)
