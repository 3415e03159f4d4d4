"""Two judges on the same items: what changed, and whether that is more than chance.

Most items are easy or hard for either judge, so comparing two separate intervals would lose power. Differences are
paired by image, on the same bootstrap resamples for both runs, and McNemar's test uses only the pairs where the two
disagree.

This is valid only for the same items. A pair's id is a hash of its content, so runs on different data, subsets or
labels are recognised and refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.metrics import (
    Observed,
    both_orders,
    clusters,
    mean,
    per_judgement,
    per_length,
    per_pair,
    signed,
)
from recipe.critic_r1.judging.pairwise import Judgement, JudgeTask
from reward_fns.verdict import Reason

Item = tuple[str, int]
"""A pair's id and the order in which it is shown."""


@dataclass(frozen=True, slots=True)
class Change:
    """A metric in both runs, and the second minus the first, paired by image."""

    first: Estimate
    second: Estimate
    difference: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `first`, `second`, `difference`, each as an `Estimate`."""
        return {name: getattr(self, name).as_dict() for name in ("first", "second", "difference")}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same items.

    figures: by the names of `judging.metrics`; `length/<name>`; `category/<name>/accuracy` for several categories.
    pairs: answered by both runs in every order; `unanswered`: left out because of a failed request in one run.
    only_first, only_second: pairs that only this run judges correctly in every order shown.
    p_value: of McNemar's exact test on these, two-sided. Unlike the intervals it assumes independent pairs; with many
        pairs per image, rely on the intervals.
    """

    figures: dict[str, Change]
    pairs: int
    unanswered: int
    only_first: int
    only_second: int
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        mcnemar = {"only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value}
        figures = {name: change.as_dict() for name, change in self.figures.items()}
        return {"pairs": self.pairs, "unanswered": self.unanswered, "mcnemar": mcnemar, "figures": figures}


def compare(first: Sequence[Judgement], second: Sequence[Judgement], *, seed: int = 0) -> Comparison:
    """Compare two runs on the same items. See `Comparison`.

    Raises:
        ValueError: the items differ (the message counts them and names the first), their labels differ, an item occurs
            twice in a run, or no pair was answered by both.
    """
    one, other = _by_item(first, "first"), _by_item(second, "second")
    _same_items(one, other)
    failed = {pair for run in (one, other) for (pair, _), judgement in run.items() if not judgement.answered}
    items = [item for item in one if item[0] not in failed]
    if not items:
        raise ValueError("no pair was answered by both runs: run `critic-r1 judge` again until no request fails")
    a, b = [one[item] for item in items], [other[item] for item in items]
    figures = _changes(per_judgement(a), per_judgement(b), clusters(a, seed=seed))
    del figures["request_failures"]
    pairs_a, pairs_b = both_orders(a), both_orders(b)
    if pairs_a:
        over_pairs = clusters([judgement for judgement, _ in pairs_a], seed=seed)
        figures |= _changes(per_pair(pairs_a), per_pair(pairs_b), over_pairs)
    lengths = _changes(per_length(a), per_length(b), clusters(a, seed=seed))
    figures |= {f"length/{name}": change for name, change in lengths.items()}
    figures |= _by_category(a, b, seed)
    right_a, right_b = _right_pairs(a), _right_pairs(b)
    only_first, only_second = len(right_a - right_b), len(right_b - right_a)
    discordant = only_first + only_second
    return Comparison(
        figures=figures,
        pairs=len({pair for pair, _ in items}),
        unanswered=len(failed),
        only_first=only_first,
        only_second=only_second,
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )


def load_judgements(run: Path) -> list[Judgement]:
    """The judgements of a run folder or its `judgements.jsonl`, without prompts, which the file does not have.

    A verdict other than 1, 2 and tie counts as unreadable.

    Raises:
        FileNotFoundError: there is no such file. ValueError: a line is not a judgement (named), or there is none.
    """
    path = run / "judgements.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the --out folder of a finished `critic-r1 judge`")
    judgements = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                judgements.append(_judgement(json.loads(line)))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"{path} line {number} is not a judgement ({error!r}): run `critic-r1 judge` again"
                ) from error
    if not judgements:
        raise ValueError(f"{path} is empty: run `critic-r1 judge` again")
    return judgements


def _judgement(record: dict[str, Any]) -> Judgement:
    task = JudgeTask(
        pair_id=str(record["pair_id"]),
        order=int(record["order"]),
        messages=(),
        question=str(record["question"]),
        response_1=str(record["response_1"]),
        response_2=str(record["response_2"]),
        ground_truth=str(record["ground_truth"]),
        image_blake3=str(record["image_blake3"]),
        category=str(record["category"]),
    )
    pred, known = record["pred"], record["pred"] in ("1", "2", "tie", None)
    if not 0 <= record["well_formed"] <= 1:
        raise ValueError(f"well_formed is {record['well_formed']}")
    return Judgement(
        task=task,
        pred=pred if known else None,
        reason=str(record["reason"]) if known else str(Reason.NOT_A_CHOICE),
        well_formed=float(record["well_formed"]),
        votes=tuple(record["votes"]),
        text=str(record["response"]),
        error=record["error"],
    )


def _by_item(run: Sequence[Judgement], name: str) -> dict[Item, Judgement]:
    items: dict[Item, Judgement] = {}
    for judgement in run:
        item = (judgement.task.pair_id, judgement.task.order)
        if item in items:
            raise ValueError(f"the {name} run judges {_named(item)} twice")
        items[item] = judgement
    return items


def _same_items(one: dict[Item, Judgement], other: dict[Item, Judgement]) -> None:
    lacking = []
    for name, here, there in (("first", one, other), ("second", other, one)):
        if alone := [item for item in here if item not in there]:
            lacking.append(f"{len(alone)} of {len(here)} only in the {name} (first: {_named(alone[0])})")
    if lacking:
        raise ValueError(f"the two runs judge different items: {', '.join(lacking)}; judge the same data with both")
    # The id covers the label of the source; a control experiment flips labels afterwards.
    relabelled = [item for item in one if one[item].task.ground_truth != other[item].task.ground_truth]
    if relabelled:
        raise ValueError(
            f"the two runs have different labels for {len(relabelled)} of {len(one)} items (first:"
            f" {_named(relabelled[0])}): were the labels of one run flipped?"
        )


def _named(item: Item) -> str:
    return f"pair {item[0]} in order {item[1]}"


def _changes(
    first: Mapping[str, Observed], second: Mapping[str, Observed], bootstrap: ClusterBootstrap
) -> dict[str, Change]:
    """Changes of the metrics that both runs have, with something observed in both."""
    changes = {}
    for name in first:
        if name not in second or not first[name][1].any() or not second[name][1].any():
            continue
        (values, counted), (others, others_counted) = second[name], first[name]
        if np.array_equal(counted, others_counted):
            # One difference per item, so that a unanimous change is recognised.
            difference = bootstrap.balance(values - others, counted, limit=2.0 if signed(name) else 1.0)
        else:
            difference = bootstrap.difference(values, others, counted, others_counted)
        changes[name] = Change(mean(name, first[name], bootstrap), mean(name, second[name], bootstrap), difference)
    return changes


def _by_category(first: Sequence[Judgement], second: Sequence[Judgement], seed: int) -> dict[str, Change]:
    category = np.array([j.task.category for j in first])
    names = sorted(set(category.tolist()))
    if len(names) < 2:
        return {}
    return _changes(_within(names, category, first), _within(names, category, second), clusters(first, seed=seed))


def _within(names: Sequence[str], category: NDArray[np.str_], run: Sequence[Judgement]) -> dict[str, Observed]:
    values, counted = per_judgement(run)["accuracy"]
    return {f"category/{name}/accuracy": (values, counted & (category == name)) for name in names}


def _right_pairs(run: Sequence[Judgement]) -> set[str]:
    """Pairs that are judged correctly in every order shown."""
    return {j.task.pair_id for j in run} - {j.task.pair_id for j in run if not j.correct}
