"""What a figure is called, what it means, and where a reader wants it.

Names and meaning of the figures belong to the code that computes them (`judging.metrics`, `judging.benchmarks`,
`self_critique.curves`, `demo.evaluate`); here they only get a label. A figure that is not listed is shown all the same,
under its own name, after the listed ones.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from recipe.critic_r1.report.run_files import Kind

Unit = Literal["share", "points", "plain"]
"""`share`: in [0, 1], printed in percent. `points`: a difference of shares. `plain`: printed as it is."""


@dataclass(frozen=True)
class Meaning:
    label: str
    note: str = ""
    better: int = 1
    """+1 when a rise is good, -1 when a fall is, 0 when neither"""
    unit: Unit = "share"


CRITIC = {
    "accuracy": Meaning("Accuracy", "the verdict is the label; each pair in both orders"),
    "accuracy_both_orders": Meaning("Accuracy, both orders", "right in one order and in the other"),
    "swap_consistency": Meaning("Swap consistency", "the same response is taken in both orders"),
    "position_bias": Meaning("Position bias", "-1 always the second place, 0 none, 1 always the first", 0, "plain"),
    "accuracy_better_first": Meaning("Accuracy, better one first"),
    "accuracy_better_second": Meaning("Accuracy, better one second"),
    "accuracy_readable": Meaning("Accuracy among readable verdicts"),
    "format_rate": Meaning("Form holds", "a think block, then one boxed verdict"),
    "parse_failures": Meaning("Unparsed", "answers without a readable verdict", -1),
    "request_failures": Meaning("Unanswered", "requests that failed; they count nowhere else", -1),
}
OFFICIAL = {
    "overall": Meaning("Overall", "over all pairs; the mean of both orders stands for the script's drawn one"),
    "macro": Meaning("Macro", "mean over the categories"),
    "acc_plus": Meaning("Acc+", "prompts whose pairs are all right"),
    "category": Meaning("Category"),
}
LENGTH = {
    "bias": Meaning("Length bias", "above 0: the longer response is taken too often", 0, "plain"),
    "longer_taken": Meaning("Longer response taken", "", 0),
    "longer_better": Meaning("Longer response is the label", "of the data, not of the judge", 0),
    "accuracy_longer_better": Meaning("Accuracy, longer one better"),
    "accuracy_shorter_better": Meaning("Accuracy, shorter one better"),
}
POLICY = {
    "greedy": Meaning("Greedy answer is right"),
    "sampled": Meaning("Sampled answer is right", "mean over samples at temperature 1"),
    "greedy_format_rate": Meaning("Form holds, greedy"),
    "sampled_format_rate": Meaning("Form holds, sampled"),
}
SELECTORS = {
    "knock_out": Meaning("Picked by knock-out", "the critic judges the answers, two at a time"),
    "weighted_knock_out": Meaning("Picked by weighted knock-out", "how often an answer was drawn counts as votes"),
    "swiss": Meaning("Picked by Swiss tournament"),
    "round_robin": Meaning("Picked by round robin", "every answer meets every other"),
    "one_sample": Meaning("One sample", "no picking"),
    "majority": Meaning("Majority"),
    "random": Meaning("Random pick"),
    "oracle": Meaning("Oracle", "right whenever any candidate is right"),
}
BASELINES = {"one_sample": "one sample", "majority": "majority", "greedy": "greedy"}
BEST_OF = SELECTORS | {
    f"{selector}_minus_{base}": Meaning(
        f"{SELECTORS[selector].label.removeprefix('Picked by ').capitalize()} less {text}",
        "paired by image",
        # Its fall may be the rise of the other one.
        better=0,
        unit="points",
    )
    for selector in ("knock_out", "weighted_knock_out", "swiss", "round_robin")
    for base, text in BASELINES.items()
}
LISTED = {
    "official": (OFFICIAL, 0, "Official figures"),
    "critic": (CRITIC, 1, "As a critic"),
    "length": (LENGTH, 2, "Length of the responses"),
    "policy": (POLICY, 3, "As a policy"),
}
OTHER = "Other figures"
# The tiles on top of a board: name patterns, the first figure that fits each.
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
"""Sorts figures: rank of the group, N, group, rank in the group, name."""


def place_of(name: str) -> tuple[Place, str, Meaning]:
    """(place, title of the group, meaning) of a figure.

    >>> place_of("best_of_8/oracle")[1:]
    ('Best of 8', Meaning(label='Oracle', note='right whenever any candidate is right', better=1, unit='share'))
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
    whole, _, part = tail.partition("/")
    if tail in listed:
        position, meaning = names.index(tail), listed[tail]
    elif whole in listed and part:
        label = part if whole == "category" else f"{listed[whole].label}: {part}"
        position, meaning = names.index(whole), replace(listed[whole], label=label, note="")
    else:
        position, meaning = len(names), Meaning(name, better=0, unit="plain")
    return (rank, -size, group, position, name), group, meaning


def policy_place(name: str, values: list[float]) -> tuple[Place, str, Meaning]:
    """Of a figure by another tool, `policy/<group>/<task>`; a share where every value could be one.

    >>> policy_place("policy/chart/chartqa", [0.7])[1:]
    ('Chart', Meaning(label='chartqa', note='', better=1, unit='share'))
    """
    group, _, task = name.removeprefix("policy/").rpartition("/")
    mean = task == "mean"
    share = bool(values) and all(0 <= value <= 1 for value in values)
    meaning = Meaning("Mean" if mean else task, unit="share" if share else "plain")
    if mean:
        meaning = replace(meaning, note="each task with the same weight")
    title = group.capitalize() if group else "All tasks"
    return (int(bool(group)), 0, group, int(not mean), name), title, meaning
