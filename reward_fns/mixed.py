"""One entry for Parquet files that mix tasks: `data_source` says which reward a row gets.

The longest prefix of `data_source` in ROUTES decides; `routes` in `reward_kwargs` adds to it. Options of one reward are
given under its name, so that they cannot reach another one by accident:

    reward:
      custom_reward_function:
        path: pkg://reward_fns.mixed
        name: compute_score
        reward_kwargs:
          preference: {tie_credit: 0.3}
          policy: {symbolic: false}
          routes: {my_vqa/: policy}

All rewards return the same keys; `kind` is added, so that metrics can be split by task.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reward_fns import nway, pointwise, policy, preference
    from reward_fns.verdict import Reason
else:  # loaded by its path: by_path.py explains
    _sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
    nway, pointwise, policy, preference = map(_sibling, ("nway", "pointwise", "policy", "preference"))
    Reason = _sibling("verdict").Reason

ROUTES = {
    "critic/": "preference",
    "critic_score/": "pointwise",
    "critic_nway/": "nway",
    "policy/": "policy",
}
"""Prefix of data_source -> reward."""

_REWARDS: dict[str, Callable[..., dict[str, Any]]] = {
    "preference": preference.compute_score,
    "pointwise": pointwise.compute_score,
    "nway": nway.compute_score,
    "policy": policy.compute_score,
}
_CHECKS: dict[str, Callable[[object], None]] = {
    "preference": preference.check_ground_truth,
    "pointwise": pointwise.check_ground_truth,
    "nway": nway.check_ground_truth,
    "policy": policy.check_ground_truth,
}


def route(data_source: object, routes: Mapping[str, str] | None = None) -> str | None:
    """Name of the reward for a data_source, or None.

    >>> route("critic/rlhf_v"), route("policy/digits"), route("gsm8k")
    ('preference', 'policy', None)
    """
    if not isinstance(data_source, str):
        return None
    known = {**ROUTES, **(routes or {})}
    fitting = [prefix for prefix in known if data_source.startswith(prefix)]
    return known[max(fitting, key=len)] if fitting else None


def check_ground_truth(data_source: str, value: object, routes: Mapping[str, str] | None = None) -> None:
    """Refuse a row that no reward can score; for `prepare`, `validate` and `preflight`.

    Raises:
        ValueError: naming the value and the remedy.
    """
    name = route(data_source, routes)
    if name not in _CHECKS:
        raise ValueError(
            f"no reward for data_source {data_source!r}: begin it with one of {', '.join(ROUTES)}, or add a route "
            "(reward.custom_reward_function.reward_kwargs.routes)"
        )
    _CHECKS[name](value)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    routes: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Reward of one row by its data_source.

    Args:
        routes: prefix -> name of a reward, in addition to ROUTES.
        options: under the name of a reward, a mapping with its options. What is no such name is not used.

    Returns:
        as `preference.compute_score`, and kind: the name of the reward. A data_source without a route scores 0 with
        the reason `no_route`; `check_ground_truth` refuses it before training.

    >>> compute_score("policy/digits", "<think>Two loops.</think>\\\\boxed{8}", "8")["kind"]
    'policy'
    """
    name = route(data_source, routes)
    if name not in _REWARDS:
        result = preference.compute_score(data_source, "", "")
        return {**result, "score": 0.0, "reason": Reason.NO_ROUTE.value, "kind": ""}
    result = _REWARDS[name](data_source, solution_str, ground_truth, extra_info, **(options.get(name) or {}))
    return {**result, "kind": name}
