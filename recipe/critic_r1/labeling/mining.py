"""Critic pairs from questions with known answers: right against wrong responses of a policy, no critic asked.

A response is checked as the reward for questions checks it (`reward_fns.answer`). One without a final answer, and one
whose answer cannot be compared with the known one, is in no pair: what is wrong with it is not its answer. The wrong
answer that the policy gives most often makes the hardest pair, because it is what the policy believes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.tasks.ordering import seeded_fraction
from recipe.critic_r1.selection.candidates import Shown, final_answer
from reward_fns.answer import alternatives, compare, normalise
from reward_fns.verdict import Reason


@dataclass(frozen=True)
class MinedPair:
    """A right response and a wrong one, as the critic is shown them.

    times: how many of the responses gave the wrong answer.
    """

    right: str
    wrong: str
    times: int


@dataclass(frozen=True)
class Mined:
    """The pairs of a question, the most frequent wrong answer first, and what became of its responses.

    counts: responses that are `right`, `wrong`, `no_answer` (none in a box) or `undecided` (cannot be compared).
    """

    pairs: list[MinedPair]
    counts: Counter[str]


def right_against_wrong(
    responses: Sequence[str],
    truth: str,
    *,
    shown: Shown = "response",
    prefilled: bool = False,
    seed: int = 0,
    name: str = "",
) -> Mined:
    """Pair each wrong answer with a right one.

    Args:
        responses: as the policy wrote them, each to its end.
        truth: the known answer, or a list of the allowed ones as `reward_fns.answer.alternatives` reads it.
        shown: what the pairs hold: whole responses, or final answers. With `answer`, the known answer takes the place
            of a right response where none was sampled; with `response` there is no pair then.
        prefilled: the chat template already writes `<think>`.
        seed, name: of the choice among equally frequent texts; the name tells questions apart.

    >>> found = right_against_wrong([r"\\boxed{7}", r"\\boxed{1}", r"\\boxed{7}", "Two."], "2", shown="answer")
    >>> [(pair.right, pair.wrong, pair.times) for pair in found.pairs], dict(found.counts)
    ([('2', '7', 2), ('2', '1', 1)], {'wrong': 3, 'no_answer': 1})
    """
    counts = Counter[str]()
    right, wrong = Counter[str](), dict[str, Counter[str]]()
    known: dict[str, tuple[bool, Reason]] = {}
    for response in responses:
        answer = final_answer(response, prefilled=prefilled)
        if answer is None:
            counts["no_answer"] += 1
            continue
        if answer not in known:
            known[answer] = compare(answer, truth)
        is_right, reason = known[answer]
        text = response if shown == "response" else answer
        if is_right:
            counts["right"] += 1
            right[text] += 1
        elif reason is not Reason.OK or not normalise(answer):
            counts["undecided"] += 1
        else:
            counts["wrong"] += 1
            wrong.setdefault(normalise(answer), Counter())[text] += 1

    def frequent_first(texts: Counter[str]) -> list[str]:
        return sorted(texts, key=lambda text: (-texts[text], seeded_fraction(seed, "mine", name, text)))

    chosen = frequent_first(right) or (alternatives(truth)[:1] if shown == "answer" else [])
    times = Counter({answer: texts.total() for answer, texts in wrong.items()})
    pairs = [
        MinedPair(chosen[place % len(chosen)], frequent_first(wrong[answer])[0], times[answer])
        for place, answer in enumerate(frequent_first(times) if chosen else [])
    ]
    return Mined(pairs, counts)
