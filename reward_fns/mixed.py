"""One reward for Parquet files that mix tasks: `data_source` decides how a row is paid.

The longest prefix of `data_source` in ROUTES decides; `routes` in `reward_kwargs` adds prefixes. The options of a
reward are given under its name:

    reward:
      custom_reward_function:
        path: pkg://reward_fns.mixed
        name: compute_score
        reward_kwargs:
          preference: {tie_credit: 0.3}
          answer: {symbolic: false}
          routes: {my_vqa/: answer}

All rewards return the same keys; `kind`, the name of the reward, is added so that metrics can be split by task.
"""

from collections.abc import Mapping
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reward_fns import answer, nway, pointwise, preference
    from reward_fns.verdict import Reason
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    answer, nway, pointwise, preference = map(_sibling, ("answer", "nway", "pointwise", "preference"))
    Reason = _sibling("verdict").Reason

ROUTES = {
    "critic/": "preference",
    "critic_score/": "pointwise",
    "critic_nway/": "nway",
    "policy/": "answer",
}
"""Prefix of data_source -> reward."""

REWARDS: dict[str, ModuleType] = {
    "preference": preference,
    "pointwise": pointwise,
    "nway": nway,
    "answer": answer,
}
"""Name -> module with `compute_score` and `check_ground_truth`."""


def route(data_source: object, routes: Mapping[str, str] | None = None) -> str | None:
    """Name of the reward for a data_source, or None.

    Raises:
        ValueError: `routes` names a reward that does not exist.

    >>> route("critic/rlhf_v"), route("policy/digits"), route("gsm8k")
    ('preference', 'answer', None)
    """
    known = {**ROUTES, **(routes or {})}
    if wrong := sorted(set(known.values()) - set(REWARDS)):
        raise ValueError(f"routes: {wrong[0]!r} is not a reward; the rewards are {', '.join(REWARDS)}")
    if not isinstance(data_source, str):
        return None
    matching = [prefix for prefix in known if data_source.startswith(prefix)]
    return known[max(matching, key=len)] if matching else None


def check_ground_truth(data_source: str, value: object, routes: Mapping[str, str] | None = None) -> None:
    """Refuse a row that no reward can score; for `prepare`, `validate` and `preflight`.

    Raises:
        ValueError: naming the value and the remedy.
    """
    name = route(data_source, routes)
    if name is None:
        raise ValueError(
            f"no reward for data_source {data_source!r}: begin it with one of {', '.join(ROUTES)}, or add a route "
            "(reward.custom_reward_function.reward_kwargs.routes)"
        )
    REWARDS[name].check_ground_truth(value)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    routes: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Reward of one row, by its data_source.

    Args:
        routes: prefix -> name of a reward, in addition to ROUTES.
        options: under the name of a reward, a mapping with its options. verl's managers may pass more, which is
            ignored unless it is a mapping.

    Returns:
        as `preference.compute_score`, plus kind: the name of the reward. A data_source without a route scores 0 with
        the reason `no_route`; `check_ground_truth` refuses it before training.

    Raises:
        ValueError: options of a reward that does not exist, or an option out of range.

    >>> compute_score("policy/digits", "<think>Two loops.</think>\\\\boxed{8}", "8")["kind"]
    'answer'
    """
    for name, value in options.items():
        if name not in REWARDS and isinstance(value, Mapping):
            raise ValueError(f"options of {name!r}, which is not a reward; the rewards are {', '.join(REWARDS)}")
    kind = route(data_source, routes)
    if kind is None:
        result = preference.compute_score(data_source, "", "")
        return {**result, "score": 0.0, "reason": Reason.NO_ROUTE.value, "kind": ""}
    result = REWARDS[kind].compute_score(
        data_source, solution_str, ground_truth, extra_info, **(options.get(kind) or {})
    )
    return {**result, "kind": kind}
