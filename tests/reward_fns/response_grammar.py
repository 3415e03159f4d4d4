"""Random responses from a grammar of everything that goes wrong with think tags, boxes and verdicts.

Uniform random text almost never holds a box; these texts are made of the pieces that matter, mostly in a sensible
order, often not. Shared by the tests (a share) and by benchmarks/reward.py (a million).
"""

import random

PIECES = (
    "<think>", "</think>", "\\boxed{", "}", "{", "\\boxed{1}", "\\boxed{2}", "\\boxed{tie}", "\\boxed{}", "\\boxed{3}",
    "\\boxed{ 1 }", "\\boxed{\\text{2}}", "\\boxed{Response 1}", "1", "2", "tie", " ", "\n", "\\", "\\}", "\\text{",
    "[[A]]", "<answer>2</answer>", "Response 1 is better.", "first", "<", ">", "/", "think", "\x00", "\u200f", "１",
    "٢", "好", "\\frac{1}{2}", "$", "%", "\ud800", "7.5", "2 > 1 = 3", "<|im_end|>", "Better response: B",
)  # fmt: skip


def random_response(rng: random.Random) -> str:
    """One response: well-formed, well-formed with pieces added or cut, or pieces alone."""
    kind = rng.random()
    if kind < 0.4:
        return "".join(rng.choices(PIECES, k=rng.randint(0, 14)))
    thoughts = "".join(rng.choices(PIECES[5:], k=rng.randint(0, 6)))
    text = (
        f"<think>{thoughts}</think>{rng.choice(('', ' ', 'So: '))}\\boxed{{{rng.choice(('1', '2', 'tie', '3', 'A'))}}}"
    )
    if kind < 0.8:
        at = rng.randint(0, len(text))
        return text[:at] + rng.choice(PIECES) + text[at + rng.choice((0, 0, 1, 5)) :]
    return text[: rng.randint(0, len(text))] if kind < 0.9 else text
