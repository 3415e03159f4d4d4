"""What an official metric sees of a response."""

import subprocess
import sys

import pytest

from recipe.critic_r1.eval_policy.command import TOOL_SIDE
from recipe.critic_r1.eval_policy.tool_side.final_answer import final_answer


@pytest.mark.parametrize(
    ("response", "seen", "reason"),
    [
        ("<think>A or B? B.</think>\\boxed{B}", "B", "ok"),
        ("<think>x</think> The answer is \\boxed{\\text{12 cm}}.", "12 cm", "ok"),
        ("<think>x</think>\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "ok"),
        # A box that was only thought of is no answer; what stands outside is.
        ("<think>Maybe \\boxed{A}.</think> I say C.", "I say C.", "box_in_think"),
        ("<think>Maybe \\boxed{A}.</think>", "", "box_in_think"),
        # Two answers: the metric sees both and does with them what it does.
        ("<think>x</think>\\boxed{A} or \\boxed{B}", "\\boxed{A} or \\boxed{B}", "conflicting_boxes"),
        # Cut off at the token limit: nothing was said.
        ("<think>It could be A, or", "", "unclosed_think"),
        ("<think>x</think>\\boxed{A", "\\boxed{A", "unclosed_box"),
        # Models that answer at once are scored as always.
        ("The answer is A.", "The answer is A.", "no_box"),
        ("\\boxed{A}", "A", "no_think"),
        # The template wrote the first tag and the server did not return it.
        ("It is B.</think>\\boxed{B}", "B", "think_not_opened"),
        ("", "", "empty"),
    ],
)
def test_the_metric_sees_the_final_answer(response: str, seen: str, reason: str) -> None:
    assert final_answer(response) == (seen, reason)


def test_a_template_that_opens_the_thoughts() -> None:
    assert final_answer("It is B.</think>\\boxed{B}", prefilled=True) == ("B", "ok")
    assert final_answer("It is B.", prefilled=True) == ("", "unclosed_think")


def test_it_needs_nothing_installed() -> None:
    """As it is loaded in the environment of lmms-eval: from its folder, without site-packages."""
    code = "from final_answer import final_answer; print(final_answer('<think>x</think>\\\\boxed{7}')[0])"
    said = subprocess.run([sys.executable, "-S", "-c", code], cwd=TOOL_SIDE, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "7"
