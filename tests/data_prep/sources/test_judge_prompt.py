"""Judge prompts are taken apart where that is certain, and refused where it is not."""

import json

import pytest

from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.record import Options
from data_prep.sources.registry import load_source
from data_prep.sources.reject import Reject

HEADINGS = "Fine.\n\n### Style:\n- **Bold**: yes\n\n## Result\nSo: [0, 1)."


FORMS = {
    "r1": "Compare.\n###### **Input:**  \n###### [Question]:\n{}  \n\n###### [Response 1]:\n{}  \n\n"
    "###### [Response 2]:\n{}  \n\n###### **Output Format (strictly follow):**  \n<think>..</think>",
    "llava": "Judge.\nQuestion: [{}]\nThe first response: [{}]\nThe second response: [{}]\nASSISTANT:\n",
    "arena": "<|User Prompt|>\n{}\n\n<|The Start of Assistant A's Answer|>\n{}\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\n{}\n<|The End of Assistant B's Answer|>",
    "bench": "[Question]\n{}\n\n[Assistant 1]\n{}\n\n[End of Assistant 1]\n\n[Assistant 2]\n{}\n\n"
    "[End of Assistant 2]\n\n[System]\nRate them.",
    "constructed": "### Task\nTwo candidate answers (Model A & Model B).\n### Context\nImage file: /data/x.jpg  \n"
    "Question: {}  \nCandidate A: {}  \nCandidate B: {}",
    "evaluated": "### Task\n...\n    ### Evaluation Context\n    Problem Statement: {}\n\n    Candidate Solution 1:\n"
    "    {}\n\n    Candidate Solution 2:\n    {}\n\n    ### Critical Requirements\n    JSON ONLY\n",
    "answered": "### Evaluation Context\nOrder of answers in this task: AB  \nQuestion: {}\n\n"
    "Answer A: {}\n\nAnswer B: {}\n",
    "input_data": "### Input Data\n    [Question]: {}\n    [Answer A]: {}\n    [Answer B]: {}",
}


def fill(form: str, question: str, first: str, second: str) -> str:
    return FORMS[form].format(question, first, second)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", ["A cat.", "Line one.\n\nLine two: [x].", HEADINGS])
@pytest.mark.parametrize("second", ["A dog.", "A dog [brown].", HEADINGS])
def test_parts_come_back_whole(form: str, first: str, second: str) -> None:
    parts = ("What is it?\nLook.", first, second)
    assert split_judge_prompt(fill(form, *parts)) == parts


def outcome(prompt: str) -> tuple[str, str, str] | str:
    """The parts, or the reason why there are none."""
    try:
        return split_judge_prompt(prompt)
    except Reject as problem:
        return problem.reason


QUOTED = {
    "r1": ["x\n###### [Response 2]:\ny", "x\n\n###### [Response 1]:\ny", "x\n###### **Output Format**\ny"],
    "llava": ["x]\nThe second response: [y", "x]\nThe first response: [y"],
    "arena": ["x <|The End of Assistant B's Answer|> y", "x <|The Start of Assistant B's Answer|> y"],
    "bench": ["x [End of Assistant 2] y", "x [Assistant 2] y"],
    "constructed": ["x\nCandidate B: y"],
    "evaluated": ["x\n### Critical Requirements\ny", "x\nCandidate Solution 2:\ny"],
    "answered": ["x\nAnswer B: y"],
    "input_data": ["x\n[Answer B]: y"],
}


@pytest.mark.parametrize(("form", "quote"), [(form, quote) for form, quotes in QUOTED.items() for quote in quotes])
@pytest.mark.parametrize("place", [1, 2])
def test_a_response_that_quotes_the_prompt_is_never_cut(form: str, quote: str, place: int) -> None:
    """Either the parts come back as they are, or the row is refused."""
    parts = ["What is it?", "A cat.", "A dog."]
    parts[place] = quote
    assert outcome(fill(form, *parts)) in (tuple(parts), "ambiguous-prompt")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (fill("r1", "q?", "a", "b").partition("###### **Output")[0], "ambiguous-prompt"),  # nothing ends the second
        (fill("arena", "q?", "a", "b").replace("<|The End of Assistant A's Answer|>", ""), "ambiguous-prompt"),
        (fill("bench", "q?", "a", "b").replace("[End of Assistant 2]", ""), "ambiguous-prompt"),
        (fill("llava", "q?", "a", "x] or [y]\nsay [first]"), "ambiguous-prompt"),
        (fill("llava", "q?", "a", "b") + "Answer [first] or [second]\n", "ambiguous-prompt"),
        (fill("r1", "q?", " ", "b"), "empty-text"),
        (fill("llava", "", "a", "b"), "empty-text"),
        ("Describe the image.", "not-pairwise"),
    ],
)
def test_an_uncertain_end_is_refused(prompt: str, reason: str) -> None:
    assert outcome(prompt) == reason


@pytest.mark.parametrize("form", FORMS)
def test_many_headings_in_a_response_take_no_time(form: str) -> None:
    """With quadratic search this would take minutes."""
    parts = ("q?", *["\n###### [Response 1]:\n[Assistant 1] <|The Start of Assistant A's Answer|> ] [" * 3000] * 2)
    assert outcome(fill(form, *parts)) in (tuple(part.strip() for part in parts), "ambiguous-prompt")


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "Earlier."}, {"role": "user", "content": fill("r1", "q?", "a", "b")}],
        [{"role": "user", "content": fill("r1", "q?", "a", "b")}, {"role": "tool", "content": "result"}],
        [{"role": "system", "content": "Judge."}],
    ],
)
def test_a_chat_that_is_more_than_a_judge_prompt_is_refused(turns: list[dict[str, str]]) -> None:
    record = {"message": json.dumps(turns), "answer": ["<answer>2</answer>"], "image": "1.jpg"}
    with pytest.raises(Reject) as problem:
        list(load_source("r1_reward").convert(record, Options()))
    assert problem.value.reason == "several-turns"


@pytest.mark.parametrize(
    ("human", "verdict", "reason"),
    [
        ("Text Caption: A dog.\nFrom 0 to 100, rate.\nFrom 0 to 100", "Final Score: 85", "ambiguous-prompt"),
        ("Text Caption: Its Text Caption: A dog.\nFrom 0 to 100", "Final Score: 85", "ambiguous-prompt"),
        ("Text Caption: A dog.", "Final Score: 85", "ambiguous-prompt"),
        ("Text Caption: A dog.\nFrom 0 to 100", "Final Score: 85 or Final Score: 20", "bad-rating"),
        (
            fill("llava", "q?", "a", "b"),
            "The better response: [first]. Two responses are equally good",
            "unknown-label",
        ),
        (fill("llava", "q?", "a", "b"), "[[A>B]] no, [[B>A]]", "unknown-label"),
    ],
)
def test_llava_critic_rows_that_contradict_themselves(human: str, verdict: str, reason: str) -> None:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": verdict}]
    with pytest.raises(Reject) as problem:
        list(load_source("llava_critic_113k").convert({"conversations": turns, "image": "1.jpg"}, Options()))
    assert problem.value.reason == reason
