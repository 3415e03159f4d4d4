"""What the demo's model reads and writes, word by word.

The tiny model is trained from scratch, so every token of a prompt costs data and CPU time. The texts are therefore as
short as the paper's form allows: a question about an image, two responses, reasoning between think tags, one boxed
verdict. A variant of the critic task has no instruction either; the warm start teaches its form. The templates that
prepare the training rows render the prompts here too, and the same functions serve the tokenizer's corpus and the warm
start, so that none of them can drift from the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.tasks.ordering import Orders
from data_prep.tasks.prompts import MARKER, get_template, nway_prompt
from recipe.critic_r1.demo import VariantName

TEMPLATE = "compact"
"""The template of the critic's prompt, in training data and evaluation alike."""


def policy_prompt(question: str) -> str:
    """The prompt that asks for the answer itself."""
    return f"{MARKER}{question}"


def policy_response(seen: str, answer: str) -> str:
    """What a policy should write."""
    return f"<think>I see a {seen}.</think>\\boxed{{{answer}}}"


def named(text: str) -> str | None:
    """What a response says it sees."""
    found = re.search(r"I see a ([^.]+)\.", text)
    return found and found[1]


@dataclass(frozen=True)
class Variant:
    """A way to judge in the demo's words; by default the paper's."""

    orders: Orders = "balanced"
    """Orders in which training pairs are shown."""

    ties: bool = False
    """Whether pairs are also shown under another image, where neither response is right (`data_prep.tasks.twins`)."""

    responses: int = 2
    """Responses of a training task. With more than two, the warm start teaches pairs as well: evaluation uses pairs."""

    thoughts: str = "I see a {seen}."
    """What the critic thinks. `{words}` says of each response whether it is right; without it, ties take much longer to
    learn. Response N is `{response_N}`, with `{score_N}`."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of responses in the prompts of the warm start."""
        return (2,) if self.responses == 2 else (2, self.responses)

    def verdict(self, answer: str, shown: Sequence[str]) -> str | None:
        """The verdict that follows from the answer; None where no response is right and the variant has no ties."""
        if answer in shown:
            return str(shown.index(answer) + 1)
        return "tie" if self.ties else None

    def critic_prompt(self, question: str, shown: Sequence[str]) -> str:
        """The prompt that asks which of the responses is right."""
        if len(shown) > 2:
            return nway_prompt(question, shown, 1, compact=True)
        return get_template(TEMPLATE).render(question, *shown)

    def critic_response(self, seen: str, shown: Sequence[str], verdict: str) -> str:
        """What a critic that sees this should write for this verdict."""
        right = [verdict == str(place) for place in range(1, len(shown) + 1)]
        fields = {"seen": seen, "verdict": verdict}
        fields["words"] = " and ".join("right" if each else "wrong" for each in right)
        for place, response in enumerate(shown, 1):
            fields[f"response_{place}"] = response
            fields[f"score_{place}"] = "9" if right[place - 1] else "1"
        return f"<think>{self.thoughts.format_map(fields)}</think>\\boxed{{{verdict}}}"


PLAIN = Variant()

_SCORES = "\nScores: Response 1: {score_1}, Response 2: {score_2}"

VARIANTS: dict[VariantName | None, Variant] = {
    None: PLAIN,
    "swap_consistency": Variant(orders="both"),
    "counterfactual": Variant(orders="both", ties=True, thoughts="I see a {seen}. {words}."),
    "grounded": Variant(
        thoughts="Observations: I see a {seen}.\n"
        "Claims: {response_1} and {response_2}.\n"
        "Verification: {words}.\n"
        "Evaluation: Response {verdict} is right." + _SCORES
    ),
    "rubric": Variant(thoughts="Rubric: what is shown.\nEvaluation: I see a {seen}. {words}." + _SCORES),
    "scores": Variant(thoughts="I see a {seen}." + _SCORES),
    "nway": Variant(responses=4),
}
"""The demo's variants of the critic task by the name of their configuration; None: the paper's own."""
