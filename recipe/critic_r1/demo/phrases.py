"""What the demo's model reads and writes, word by word.

The tiny model is trained from scratch, so every token of a prompt costs data and CPU time. The texts are therefore as
short as the paper's form allows: a question about an image, two responses, reasoning
between think tags, one boxed verdict. The template that prepares the training rows renders the prompts here too, and
the same functions serve the tokenizer's corpus and the warm start, so that none of them can drift from the others.
"""

from __future__ import annotations

from data_prep.sources.digits import QUESTION
from data_prep.tasks.prompts import MARKER, get_template

TEMPLATE = "compact"
"""The template of the critic's prompt, in training data and evaluation alike."""


def policy_prompt() -> str:
    """The prompt that asks for the digit itself."""
    return f"{MARKER}{QUESTION}"


def critic_prompt(response_1: int, response_2: int) -> str:
    """The prompt that asks which of two responses is right."""
    return get_template(TEMPLATE).render(QUESTION, str(response_1), str(response_2))


def policy_response(digit: int) -> str:
    """What a policy that sees `digit` should write."""
    return f"<think>I see a {digit}.</think>\\boxed{{{digit}}}"


def critic_response(digit: int, choice: int) -> str:
    """What a critic that sees `digit` and prefers response `choice` (1 or 2) should write."""
    return f"<think>I see a {digit}.</think>\\boxed{{{choice}}}"
