"""Labels, notes and order of the metrics.

They are defined where they are computed (`judging.metrics`, `judging.official_metrics`, `selection.curves`,
`demo.evaluate`). A metric without a label is shown under its own name after the others.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from recipe.critic_r1.report.run_files import Kind

Unit = Literal["share", "points", "plain"]
"""`share`: in [0, 1], printed in percent. `points`: a difference of shares. `plain`: a number."""


@dataclass(frozen=True)
class Meaning:
    label: str
    note: str = ""
    better: int = 1
    """+1 when higher is better, -1 when lower is, 0 for neither"""
    unit: Unit = "share"


CRITIC = {
    "accuracy": Meaning("Accuracy", "the verdict equals the label; each pair in both orders"),
    "accuracy_both_orders": Meaning("Accuracy, both orders", "correct in both orders of the pair"),
    "swap_consistency": Meaning("Swap consistency", "the same response is preferred in both orders"),
    "position_bias": Meaning("Position bias", "-1: always the second, 0: none, 1: always the first", 0, "plain"),
    "accuracy_better_first": Meaning("Accuracy, better response first"),
    "accuracy_better_second": Meaning("Accuracy, better response second"),
    "accuracy_readable": Meaning("Accuracy of readable verdicts"),
    "format_rate": Meaning("Format followed", "a think block, then one boxed verdict"),
    "parse_failures": Meaning("Unparsed", "responses without a readable verdict", -1),
    "request_failures": Meaning("Unanswered", "failed requests; excluded from all other metrics", -1),
}
OFFICIAL = {
    "overall": Meaning("Overall", "all pairs; mean of both orders, where the official script samples one"),
    "without_ties": Meaning("Without ties", "pairs whose label is not a tie"),
    "macro": Meaning("Macro average", "mean over the categories"),
    "acc_plus": Meaning("Acc+", "prompts with every pair correct"),
    "category": Meaning("Category"),
}
LENGTH = {
    "bias": Meaning("Length bias", "above 0: the longer response is preferred too often", 0, "plain"),
    "longer_taken": Meaning("Longer response preferred", "", 0),
    "longer_better": Meaning("Longer response is the label", "a property of the data, not of the judge", 0),
    "accuracy_longer_better": Meaning("Accuracy, longer response better"),
    "accuracy_shorter_better": Meaning("Accuracy, shorter response better"),
}
POLICY = {
    "greedy": Meaning("Accuracy, greedy"),
    "sampled": Meaning("Accuracy, sampled", "mean over samples at temperature 1"),
    "greedy_format_rate": Meaning("Format followed, greedy"),
    "sampled_format_rate": Meaning("Format followed, sampled"),
}
SELECTORS = {
    "knock_out": Meaning("Picked by knock-out", "the critic judges the answers two at a time"),
    "weighted_knock_out": Meaning("Picked by weighted knock-out", "repeated answers count as votes"),
    "round_robin": Meaning("Picked by round robin", "every answer is compared with every other"),
    "one_sample": Meaning("One sample", "no selection"),
    "majority": Meaning("Majority"),
    "random": Meaning("Random pick"),
    "oracle": Meaning("Oracle", "right if any candidate is right"),
}
BASELINES = {"one_sample": "one sample", "majority": "majority", "greedy": "greedy"}
BEST_OF = SELECTORS | {
    f"{selector}_minus_{base}": Meaning(
        f"{SELECTORS[selector].label.removeprefix('Picked by ').capitalize()} minus {text}",
        "paired by image",
        # It also falls when the baseline rises.
        better=0,
        unit="points",
    )
    for selector in ("knock_out", "weighted_knock_out", "round_robin")
    for base, text in BASELINES.items()
}
LISTED = {
    "official": (OFFICIAL, 0, "Official metrics"),
    "critic": (CRITIC, 1, "As a critic"),
    "length": (LENGTH, 2, "Length of the responses"),
    "policy": (POLICY, 3, "As a policy"),
}
OTHER = "Other metrics"
# The tiles of a board: patterns of names, of which the first matching metric is shown.
HEADLINES: dict[Kind, tuple[str, ...]] = {
    "held-out": (r"critic/accuracy", r"critic/accuracy_both_orders", r"policy/greedy", r"best_of_\d+/knock_out"),
    "benchmark": (
        r"official/overall|critic/accuracy",
        r"official/acc_plus|critic/accuracy_both_orders",
        r"critic/swap_consistency",
        r"critic/parse_failures",
    ),
    "best-of-n": (
        r"best_of_\d+/knock_out",
        r"best_of_\d+/one_sample",
        r"best_of_\d+/majority",
        r"best_of_\d+/knock_out_minus_one_sample",
    ),
    "policy": (r"policy/mean", *[r"policy/[^/]+/mean"] * 3, *[r".*"] * 4),
}

Place = tuple[int, int, str, int, str]
"""Sort key of a metric: rank of the group, N, group, rank in the group, name."""


def place_of(name: str) -> tuple[Place, str, Meaning]:
    """(place, title of the group, meaning) of a metric.

    >>> place_of("best_of_8/oracle")[1:]
    ('Best of 8', Meaning(label='Oracle', note='right if any candidate is right', better=1, unit='share'))
    >>> place_of("critic/parse_failures/no_box")[2].label
    'Unparsed: no_box'
    """
    head, _, tail = name.partition("/")
    size = 0
    if best_of := re.fullmatch(r"best_of_(\d+)(_other)?", head):
        size = int(best_of[1])
        group = f"Best of {size}" + (", another policy's candidates" if best_of[2] else "")
        listed, rank = BEST_OF, 5 if best_of[2] else 4
    else:
        listed, rank, group = LISTED.get(head, ({}, 9, OTHER))
    names = list(listed)
    parent, _, part = tail.partition("/")
    if tail in listed:
        position, meaning = names.index(tail), listed[tail]
    elif parent in listed and part:
        label = part if parent == "category" else f"{listed[parent].label}: {part}"
        position, meaning = names.index(parent), replace(listed[parent], label=label, note="")
    else:
        position, meaning = len(names), Meaning(name, better=0, unit="plain")
    return (rank, -size, group, position, name), group, meaning


def policy_place(name: str, values: list[float]) -> tuple[Place, str, Meaning]:
    """Place, group and meaning of a third-party metric, `policy/<group>/<task>`; a share if all values are in [0, 1].

    >>> policy_place("policy/chart/chartqa", [0.7])[1:]
    ('Chart', Meaning(label='chartqa', note='', better=1, unit='share'))
    """
    group, _, task = name.removeprefix("policy/").rpartition("/")
    mean = task == "mean"
    share = bool(values) and all(0 <= value <= 1 for value in values)
    meaning = Meaning("Mean" if mean else task, unit="share" if share else "plain")
    if mean:
        meaning = replace(meaning, note="tasks weighted equally")
    title = group.capitalize() if group else "All tasks"
    return (int(bool(group)), 0, group, int(not mean), name), title, meaning
