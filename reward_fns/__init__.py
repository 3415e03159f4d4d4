"""Rewards from the text of a response: plain Python on the standard library, for any trainer.

    from reward_fns import preference_reward
    preference_reward("<think>It invents a dog.</think>\\\\boxed{1}", "1")          # 1.0

`preference_reward` and its siblings take one response or a list, and are reward functions for TRL as they are. verl
loads the files of this folder by path instead, and calls their `compute_score`. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_fns.answer import same_answer
    from reward_fns.batch import (
        Reward,
        answer_reward,
        mixed_reward,
        nway_reward,
        pointwise_reward,
        preference_reward,
    )
    from reward_fns.critic_groups import critic_group_reward
    from reward_fns.verdict import Box, Reason, Verdict, find_box, parse_verdict

__all__ = [
    "Box",
    "Reason",
    "Reward",
    "Verdict",
    "answer_reward",
    "critic_group_reward",
    "find_box",
    "mixed_reward",
    "nway_reward",
    "parse_verdict",
    "pointwise_reward",
    "preference_reward",
    "same_answer",
]

_VERDICT = ("Box", "Reason", "Verdict", "find_box", "parse_verdict")
_MODULES = {"same_answer": "answer", "critic_group_reward": "critic_groups", **dict.fromkeys(_VERDICT, "verdict")}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'batch')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
