"""Rows about handwritten digits, for tests of what reads, trains on or judges them."""

import random
from collections.abc import Sequence

from data_prep.tasks.pairwise import PolicyTask, PreferencePair, Split
from recipe.critic_r1.demo.worlds import DIGITS


def pairs(indices: Sequence[int], n: int = 1) -> list[PreferencePair]:
    """The true digit against each of `n` wrong ones, for each image."""
    draw = random.Random(0)
    items = DIGITS.items(indices)
    wrong = [DIGITS.wrong(draw, item.question, item.answer, n) for item in items]
    return [DIGITS.pair(item, answer) for item, answers in zip(items, wrong, strict=True) for answer in answers]


def questions(indices: Sequence[int], split: Split = "train") -> list[PolicyTask]:
    """The plain question about each image."""
    return [DIGITS.policy_task(item, number, split=split) for number, item in enumerate(DIGITS.items(indices))]
