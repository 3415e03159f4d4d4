"""critic-r1: the LLaVA-Critic-R1 recipe as a plug-in for verl 0.9, and a library for judging.

    from recipe.critic_r1 import Image, OpenAIJudge, PreferencePair, best_of_n, judge_pairs, write_tasks

Names are loaded when they are used: verl imports this package in every process of a run.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.tasks.pairwise import Image, PreferencePair
    from data_prep.write_tasks import write_tasks
    from recipe.critic_r1.judging.api import (
        BestOfN,
        OpenAIJudge,
        best_of_n,
        best_of_n_async,
        judge_pairs,
        judge_pairs_sync,
        label,
        label_async,
    )
    from recipe.critic_r1.labeling.questions import LabelPrompt

_API = "recipe.critic_r1.judging.api"
_MODULES = {
    "BestOfN": _API,
    "Image": "data_prep.tasks.pairwise",
    "LabelPrompt": "recipe.critic_r1.labeling.questions",
    "OpenAIJudge": _API,
    "PreferencePair": "data_prep.tasks.pairwise",
    "best_of_n": _API,
    "best_of_n_async": _API,
    "judge_pairs": _API,
    "judge_pairs_sync": _API,
    "label": _API,
    "label_async": _API,
    "write_tasks": "data_prep.write_tasks",
}

__all__ = [
    "BestOfN",
    "Image",
    "LabelPrompt",
    "OpenAIJudge",
    "PreferencePair",
    "best_of_n",
    "best_of_n_async",
    "judge_pairs",
    "judge_pairs_sync",
    "label",
    "label_async",
    "write_tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
