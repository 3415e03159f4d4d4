"""What a step's rollouts say about the critic: accuracy, format, reasons, position bias, groups without signal.

verl logs the mean reward and no part of it. These metrics come from the dictionary that the reward returned for each
rollout, so they need no second pass over the texts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from reward_fns.verdict import Reason

PREFIX = "critic_r1"


@dataclass(frozen=True)
class Rollout:
    """One sampled response and what the reward made of it."""

    uid: str
    """The prompt group; the n rollouts of a prompt share it."""

    sample: int
    """Index within the group, 0 .. n-1."""

    data_source: str

    prompt: str

    response: str

    response_tokens: int

    ground_truth: str

    extra_info: Mapping[str, Any] = field(default_factory=dict)
    """The row's ``extra_info`` (pair_id, order, question, responses, image hashes)."""

    reward: Mapping[str, Any] = field(default_factory=dict)
    """What the reward function returned: score, acc, format, pred, reason."""

    key: str = ""
    """The rollout's key in TransferQueue."""


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _group_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.uid].append(float(rollout.reward["score"]))
    flat = [max(scores) - min(scores) < 1e-9 for scores in groups.values()]
    solved = [min(float(r.reward["acc"]) for r in rollouts if r.uid == uid) > 0.5 for uid in groups]
    return {"groups_without_signal": _mean(flat), "groups_all_correct": _mean(solved)}


def _judge_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What a critic that rewards groups said and cost (`recipe.critic_r1.training.group_reward`)."""
    groups: defaultdict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.uid].append(rollout)
    found = [rows[0].reward["group"] for rows in groups.values()]
    metrics = {"unjudged": _mean(group["unjudged"] for group in found)}
    if judged := [group for group in found if not group["unjudged"]]:
        metrics["spread"] = _mean(group["spread"] for group in judged)
    for name in ("unreadable", "flipped", "first_place"):
        if measured := [group[name] for group in judged if name in group]:
            metrics[name] = _mean(measured)
    metrics |= {
        name: float(sum(group[name] for group in found))
        for name in ("matches", "judgements", "prompt_tokens", "completion_tokens")
    }
    metrics["seconds/mean"] = _mean(group["seconds"] for group in found)
    metrics["seconds/max"] = float(max(group["seconds"] for group in found))
    longer = [
        float((one.response_tokens > other.response_tokens) == (float(one.reward["acc"]) > float(other.reward["acc"])))
        for rows in groups.values()
        if not rows[0].reward["group"]["unjudged"]
        for one, other in combinations(rows, 2)
        if one.response_tokens != other.response_tokens and one.reward["acc"] != other.reward["acc"]
    ]
    if longer:
        metrics["longer_wins"] = _mean(longer)
    return {f"judge/{name}": value for name, value in metrics.items()}


def critic_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Metrics of one step under ``critic_r1/``; shares and means over rollouts unless said otherwise.

    - ``score``, ``accuracy``, ``format_rate``; for mixed data also ``<data_source>/...``
    - ``reason/<code>``: share of rollouts by the verdict's reason code
    - ``chain_rate``: where thoughts must be a chain (`reward_fns.grounded`), the share of unbroken ones
    - ``position_bias``: share of "1" among readable verdicts 1 or 2, less the share of rows whose answer is "1"; 0 is
      unbiased, +-0.5 says that one position always wins on balanced rows
    - ``groups_without_signal``: share of groups whose rollouts all scored the same (their advantage is zero)
    - ``response_tokens/mean``, ``/max``
    - where a critic rewards groups, ``judge/...``: ``unjudged`` (share of groups), ``spread`` (of a group's scores),
      ``unreadable``, ``flipped``, ``first_place`` (as `reward_fns.group.GroupScores.metrics`), ``matches``,
      ``judgements``, ``prompt_tokens``, ``completion_tokens`` (of the step), ``seconds/mean`` and ``/max`` (of a
      group), ``longer_wins`` (of two responses to a prompt with other lengths and scores, how often the longer one has
      the higher score; 0.5 says that length does not matter)
    """
    if not rollouts:
        return {}
    scored = [rollout for rollout in rollouts if "score" in rollout.reward]
    metrics = {"unscored_rollouts": float(len(rollouts) - len(scored))}
    if scored:
        by_source: defaultdict[str, list[Rollout]] = defaultdict(list)
        for rollout in scored:
            by_source[rollout.data_source].append(rollout)
        sections = {"": scored} | ({f"{s}/": rows for s, rows in by_source.items()} if len(by_source) > 1 else {})
        for section, rows in sections.items():
            metrics[f"{section}score"] = _mean(float(r.reward["score"]) for r in rows)
            metrics[f"{section}accuracy"] = _mean(float(r.reward["acc"]) for r in rows)
            metrics[f"{section}format_rate"] = _mean(float(r.reward["format"]) for r in rows)
        if chains := [float(r.reward["chain"]) for r in scored if "chain" in r.reward]:
            metrics["chain_rate"] = _mean(chains)
        reasons = Counter(str(r.reward["reason"]) for r in scored)
        # All reasons each step: a tracker draws a gap, not a zero, for a key that is missing.
        for reason in {str(r) for r in Reason} | set(reasons):
            metrics[f"reason/{reason}"] = reasons[reason] / len(scored)
        critic = [
            r
            for r in scored
            if r.reward["pred"] in ("1", "2")
            and str(r.ground_truth) in ("1", "2")
            and r.data_source.startswith("critic/")
        ]
        if critic:
            said = _mean(r.reward["pred"] == "1" for r in critic)
            metrics["position_bias"] = said - _mean(str(r.ground_truth) == "1" for r in critic)
        metrics |= _group_metrics(scored)
        if judged := [r for r in scored if "group" in r.reward]:
            metrics |= _judge_metrics(judged)
    lengths = [rollout.response_tokens for rollout in rollouts]
    metrics["response_tokens/mean"] = _mean(lengths)
    metrics["response_tokens/max"] = float(max(lengths))
    return {f"{PREFIX}/{name}": value for name, value in metrics.items()}
