"""The official protocols: template read from a file and never made up, replies read in the form that was asked for.

The benchmarks' own templates do not stand here; the files below only have their form.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.critic_r1.judging import official
from recipe.critic_r1.judging.generation import ImagePart, TextPart
from recipe.critic_r1.judging.official import PROTOCOLS, OfficialPrompt, load_prompt, template_sha256
from recipe.critic_r1.judging.pairwise import JudgeTask

F_STRING = """
import os
os.environ["CRITIC_R1_TEST_RAN"] = "yes"

def prompt(data_obj, random_number):
    answers = data_obj["response"]
    prompt_str = f''' Which is {{better}}?
{data_obj["query"]}
- {answers[0]}
- {answers[1]}
Tell.'''
    return prompt_str
"""
FORMAT_STRING = 'judge_prompt = """{question}\\nA: {answer_a}\\nB: {answer_b}"""\n'


def known(monkeypatch: pytest.MonkeyPatch, source: str, pieces: tuple[tuple[str, str | None], ...]) -> None:
    monkeypatch.setitem(PROTOCOLS, source, replace(PROTOCOLS[source], sha256=template_sha256(pieces)))


def written(folder: Path, source: str, text: str) -> Path:
    path = folder / PROTOCOLS[source].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("vl_rewardbench", F_STRING, " Which is {better}?\nQ {x} <image>\n- A\n- B\nTell."),
        ("multimodal_rewardbench", FORMAT_STRING, "Q {x} <image>\nA: A\nB: B"),
    ],
)
def test_the_template_is_read_from_the_file_and_filled_in(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    task: Callable[..., JudgeTask],
    source: str,
    text: str,
    expected: str,
) -> None:
    """Free text goes in as it is, the image follows it, and the file is not run."""
    monkeypatch.delenv("CRITIC_R1_TEST_RAN", raising=False)
    path = written(tmp_path, source, text)
    known(monkeypatch, source, official._pieces(path, PROTOCOLS[source]))
    for code in (tmp_path, path):
        prompt = load_prompt(source, code)
        asked = prompt.task(replace(task("p", 0), question="Q {x} <image>"))
        (message,) = asked.messages
        assert message.parts == (TextPart(expected), ImagePart(b"p"))
        (swapped,) = prompt.task(task("p", 1)).messages
        assert message.role == "user"
        assert swapped.parts[0].text.index("B") < swapped.parts[0].text.rindex("A")  # type: ignore[union-attr]
    assert "CRITIC_R1_TEST_RAN" not in os.environ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(F_STRING, "another template than the official one", id="another template"),
        pytest.param(F_STRING.replace("answers[0]", "answers[2]"), "no string prompt_str with the fields", id="field"),
        pytest.param("prompt_str = 3", "no string prompt_str", id="no string"),
        pytest.param("other = 'x'", "no string prompt_str", id="no such name"),
        pytest.param("def (", "no string prompt_str", id="no Python"),
        pytest.param("#" * (official.LARGEST_FILE + 1), "too large", id="too large"),
    ],
)
def test_another_template_is_refused(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, "vl_rewardbench", text)
    with pytest.raises(ValueError, match=message):
        load_prompt("vl_rewardbench", tmp_path)


def test_what_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    available = "vl_rewardbench, multimodal_rewardbench"
    with pytest.raises(ValueError, match=rf"'mm_rlhf_rewardbench', only for {available}"):
        load_prompt("mm_rlhf_rewardbench", tmp_path)
    with pytest.raises(ValueError, match=r"clone https://github\.com/facebookresearch/multimodal_rewardbench"):
        load_prompt("multimodal_rewardbench", None)
    with pytest.raises(FileNotFoundError, match=r"prompt\.py does not exist: --official-code takes a clone"):
        load_prompt("vl_rewardbench", tmp_path)


VL, MM = "vl_rewardbench", "multimodal_rewardbench"
OVERALL = "Overall Judgment: Answer 2 is better."


@pytest.mark.parametrize(
    ("source", "text", "choice"),
    [
        pytest.param(VL, OVERALL, "2", id="as asked"),
        pytest.param(VL, f"1. Answer 1 is better.\n2. Answer 1 is better.\n{OVERALL}", "2", id="criteria come first"),
        pytest.param(VL, f"{OVERALL} This overall judgment weighs accuracy most.", "2", id="named again"),
        pytest.param(VL, "**Overall Judgment:**\n\n**Answer 1** is *slightly better*.", "1", id="markdown"),
        pytest.param(VL, "Answer 1 is better here. Therefore, Answer 2 is better.", "2", id="therefore"),
        pytest.param(VL, "Accuracy: Answer 1 is better. Clarity: Answer 2 is better.", None, id="no conclusion"),
        pytest.param(VL, f"{OVERALL} Yet Answer 1 is better.", None, id="takes it back"),
        pytest.param(VL, "Overall Judgment: Answer 1 is not better.", None, id="negated"),
        pytest.param(VL, "I cannot say whether Answer 1 is better.", None, id="whether"),
        pytest.param(VL, "Answer 1 has \\boxed{2}. Overall Judgment: Answer 1 is better.", "1", id="a quoted box"),
        pytest.param(VL, "One of them ends with \\boxed{2}.", None, id="only a quoted box"),
        pytest.param(VL, "The final answer is B, so the correct choice is B.", None, id="the item's answer"),
        pytest.param(VL, "<think>Overall Judgment: Answer 1 is better</think>\\boxed{2}", "2", id="our own form"),
        pytest.param(VL, "<think>Answer 1 is better", None, id="thoughts without end"),
        pytest.param(VL, f"<think>Answer 1 is better</think>{OVERALL}", "2", id="thoughts do not count"),
        pytest.param(VL, "The second answer is better.", "2", id="other words"),
        pytest.param(VL, "<answer>1</answer>", "1", id="other tags"),
        pytest.param(VL, "Both are equally good.", None, id="no tie is offered"),
        pytest.param(VL, "", None, id="empty"),
        pytest.param(MM, "A shows more. [[B]]", "2", id="letters"),
        pytest.param(MM, "[[A]]", "1", id="A"),
        pytest.param(MM, "[[A]] or [[B]]", None, id="both: the script takes A"),
        pytest.param(MM, "None", None, id="none: the script tosses a coin"),
        pytest.param(MM, "[[C]]", None, id="C"),
    ],
)  # fmt: skip
def test_replies(source: str, text: str, choice: str | None) -> None:
    assert OfficialPrompt(PROTOCOLS[source], ()).read(text).choice == choice


def test_a_long_reply_is_read_in_linear_time_and_to_its_end() -> None:
    """A statement far behind, and many that agree; a quadratic scan of this would not come back."""
    prompt = OfficialPrompt(PROTOCOLS[VL], ())
    assert prompt.read("overall judgment therefore answer 1 is " * 100_000).choice is None
    assert prompt.read("overall judgment " * 100_000 + "answer 1 is better").choice == "1"
    assert prompt.read("Answer 2 is better. " * 100_000).choice == "2"
