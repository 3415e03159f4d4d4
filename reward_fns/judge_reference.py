"""A reward for verl from a critic on a server: is the response as good as the reference answer?

    reward.custom_reward_function.path=pkg://reward_fns.judge_reference
    +reward.custom_reward_function.reward_kwargs.model=critic
    +reward.custom_reward_function.reward_kwargs.url=http://localhost:8000/v1

Without `url` the address is that of verl's own reward model (`reward.reward_model.enable`), and `model` its
`model_path`. The critic compares the response with `ground_truth` in both orders. It sees no image, because verl gives
none to a reward function; `critic_groups` and the reward manager of the recipe show the images and need no reference.

Needs the openai package and, for the prompt templates, `data_prep`.
"""

import asyncio
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING or __package__:
    from reward_fns.answer import normalise
    from reward_fns.chat_judge import ChatJudge
    from reward_fns.group import JudgeFailedError
    from reward_fns.verdict import find_box, unwrap
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    normalise = _sibling("answer").normalise
    _judge, _verdict = _sibling("chat_judge"), _sibling("verdict")
    ChatJudge, JudgeFailedError = _judge.ChatJudge, _judge.JudgeFailedError
    find_box, unwrap = _verdict.find_box, _verdict.unwrap

_WORTH = {"1": 1.0, "2": 0.0, "tie": 0.5, None: 0.5}
"""What a verdict is worth to the response shown first."""

_CRITICS: WeakKeyDictionary[Any, dict[str, ChatJudge]] = WeakKeyDictionary()
"""Connections of each event loop, by what they were made from."""


def _critic(url: str, model: str, options: dict[str, Any]) -> ChatJudge:
    known = _CRITICS.setdefault(asyncio.get_running_loop(), {})
    name = repr((url, model, sorted(options.items())))
    if name not in known:
        known[name] = ChatJudge(url, model, **options)
    return known[name]


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    model: str,
    url: str = "",
    reward_router_address: str | None = None,
    reward_model_tokenizer: object = None,
    format_weight: float = 0.1,
    **options: Any,
) -> dict[str, Any]:
    """Reward of one response.

    Args:
        extra_info: `question` is shown to the critic.
        url: address up to and including `/v1`; by default that of verl's reward model.
        reward_router_address, reward_model_tokenizer: given by verl.
        options: of `chat_judge.ChatJudge`.

    Returns:
        `acc`: 1.0 where the response wins or draws against the reference over both orders, 0.5 where it loses one of
        the two and draws the other, 0.0 where it loses both; an unreadable verdict is a draw. The same text is 1.0
        unasked. `format`, `score` and `pred` are those of `answer.compute_score`. `reason` is that of the box, or
        `unjudged`: no answer from the critic, `acc` 0.5. There is no group here that could be left out of the update.

    Raises:
        ValueError, TypeError: an option that is out of range or unknown, or no address.
    """
    if not 0.0 <= format_weight <= 1.0:
        raise ValueError(f"format_weight must lie in [0, 1]: got {format_weight!r}")
    critic = _critic(url or (f"http://{reward_router_address}/v1" if reward_router_address else ""), model, options)
    box = find_box(solution_str)
    answer = None if box.content is None else unwrap(box.content)
    shown, form, reason = answer or str(solution_str), float(box.well_formed), box.reason.value
    if normalise(shown) == normalise(str(ground_truth)):
        acc = 1.0
    else:
        try:
            judge = critic.about(str((extra_info or {}).get("question") or ""))
            orders = await asyncio.gather(judge(shown, ground_truth), judge(ground_truth, shown))
            share = (_WORTH[orders[0]] + 1.0 - _WORTH[orders[1]]) / 2
            acc = min(1.0, 2 * share)
        except JudgeFailedError:
            acc, reason = 0.5, "unjudged"
    return {
        "score": (1 - format_weight) * acc + format_weight * form,
        "acc": acc,
        "format": form,
        "pred": "" if answer is None else normalise(answer)[:64],
        "reason": reason,
    }
