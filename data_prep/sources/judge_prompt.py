"""Taking a finished judge prompt apart again: question, first response, second response.

Some sets ship the prompt that a judge was shown instead of its parts. Each form below is known by its headings. They
are found by plain searches, in linear time, since these prompts hold text that models wrote. A response may quote a
heading; a prompt that can be taken apart in more than one way is refused, and so is one whose second response has no
certain end.
"""

import re
from dataclasses import dataclass

from data_prep.sources.reject import Reject


@dataclass(frozen=True)
class _Form:
    question: re.Pattern[str]
    first: re.Pattern[str]
    second: re.Pattern[str]
    end: re.Pattern[str] | None = None
    """What follows the second response; None where it is the end of the prompt."""
    first_end: re.Pattern[str] | None = None
    """What follows the first response, where that is not just the heading of the second."""
    bracketed: bool = False
    """Whether every part is in square brackets."""


def _line(heading: str) -> re.Pattern[str]:
    """A heading at the start of a line."""
    return re.compile(rf"(?:^|\n)[ \t]*{heading}", re.IGNORECASE)


_FIRST = r"(?:the first response|(?:response|answer|assistant) (?:1|a))"
_SECOND = r"(?:the second response|(?:response|answer|assistant) (?:2|b))"
_MARKS = r"[ \t#*]{0,12}"

_FORMS = (
    # LLaVA-Critic: each part in square brackets after its heading.
    _Form(
        re.compile(r"(?:^|\s)Question: ?\["),
        _line(rf"{_MARKS}{_FIRST}: ?\["),
        _line(rf"{_MARKS}{_SECOND}: ?\["),
        bracketed=True,
    ),
    # Arena: tags around the answers.
    _Form(
        re.compile(r"<\|User Prompt\|>"),
        re.compile(r"<\|The Start of Assistant A's Answer\|>"),
        re.compile(r"<\|The Start of Assistant B's Answer\|>"),
        re.compile(r"<\|The End of Assistant B's Answer\|>"),
        re.compile(r"<\|The End of Assistant A's Answer\|>"),
    ),
    # LLaVA-Bench: [Question] ... [Assistant 1] ... [End of Assistant 1] [Assistant 2] ... [End of Assistant 2]
    _Form(
        re.compile(r"\[Question\]\s"),
        re.compile(r"\[Assistant 1\]\s"),
        re.compile(r"\[Assistant 2\]\s"),
        re.compile(r"\[End of Assistant 2\]"),
        re.compile(r"\[End of Assistant 1\]"),
    ),
    # Omni-Preference, as its pairs are constructed; the second answer ends the prompt.
    _Form(
        _line(r"### Context[ \t]*\n[ \t]*Image file:[^\n]*\n[ \t]*Question:"),
        _line("Candidate A:"),
        _line("Candidate B:"),
    ),
    # Omni-Preference, as its judge is asked on VL-RewardBench.
    _Form(
        _line(r"### Evaluation Context[ \t]*\n[ \t]*Problem Statement:"),
        _line("Candidate Solution 1:"),
        _line("Candidate Solution 2:"),
        _line("### Critical Requirements"),
    ),
    # Omni-Preference, as its judge is asked on Multimodal RewardBench and on HH-RLHF.
    _Form(
        _line(r"### Evaluation Context[ \t]*\n(?:[ \t]*Order of answers[^\n]*\n)?[ \t]*Question:"),
        _line("Answer A:"),
        _line("Answer B:"),
    ),
    _Form(_line(r"### Input Data[ \t]*\n[ \t]*\[Question\]:"), _line(r"\[Answer A\]:"), _line(r"\[Answer B\]:")),
    # R1-Reward: ###### [Question]: / [Response 1]: / [Response 2]: / **Output Format ...
    _Form(
        _line(rf"{_MARKS}\**\[?question\]?\** ?:\**"),
        _line(rf"{_MARKS}\**\[?{_FIRST}\]?\** ?:\**"),
        _line(rf"{_MARKS}\**\[?{_SECOND}\]?\** ?:\**"),
        _line(rf"{_MARKS}\**\[?output format"),
    ),
)


def split_judge_prompt(prompt: str) -> tuple[str, str, str]:
    """Question, first and second response of a judge prompt.

    Raises:
        Reject: `not-pairwise` when no known form fits, `ambiguous-prompt` when it is not certain where a part ends,
            `empty-text` when a part is empty.
    """
    for form in _FORMS:
        if (parts := _try(form, prompt)) is not None:
            # Not the next form: it might take the brackets around nothing for a response.
            if not all(parts):
                raise Reject("empty-text", "the question or a response in the judge prompt is empty")
            return parts
    raise Reject("not-pairwise", "no question with two responses is found in the prompt", "It is another kind of task.")


def _try(form: _Form, prompt: str) -> tuple[str, str, str] | None:
    """The three parts; None when the prompt is not of this form."""
    question = form.question.search(prompt)
    if question is None:
        return None
    firsts = list(form.first.finditer(prompt, question.end()))
    seconds = list(form.second.finditer(prompt, firsts[0].end())) if firsts else []
    if not seconds:
        return None
    first, second = firsts[0], seconds[0]
    if len(seconds) > 1 or any(other.end() <= second.start() for other in firsts[1:]):
        raise _ambiguous("the heading of a response is there more than once")
    if form.question.search(prompt, question.end(), first.start()):
        raise _ambiguous("the heading of the question is there more than once")
    parts = [prompt[question.end() : first.start()], prompt[first.end() : second.start()], prompt[second.end() :]]
    if form.first_end is not None:
        parts[1] = _before_only(form.first_end, parts[1])
    if form.end is not None:
        parts[2] = _before_only(form.end, parts[2])
    elif form.bracketed:
        parts = [_unbracketed(part) for part in parts[:2]] + [_last_unbracketed(parts[2])]
    asked, one, two = (part.strip() for part in parts)
    return asked, one, two


def _ambiguous(why: str) -> Reject:
    remedy = "A response that quotes the judge prompt; leave the row out."
    return Reject("ambiguous-prompt", f"it is not certain where a part of the judge prompt ends: {why}", remedy)


def _before_only(end: re.Pattern[str], text: str) -> str:
    """The text before the only match of `end`."""
    matches = list(end.finditer(text))
    if len(matches) != 1:
        raise _ambiguous(f"the mark after a response is there {len(matches)} times")
    return text[: matches[0].start()]


def _unbracketed(part: str) -> str:
    """A part without the bracket that ends it; the opening one belongs to the heading."""
    part = part.rstrip()
    if not part.endswith("]"):
        raise _ambiguous("a part has no closing bracket before the next heading")
    return part[:-1]


_LINE_END = re.compile(r"\][ \t]*(?:\n|$)")


def _last_unbracketed(rest: str) -> str:
    """The second response, which other text may follow: up to the bracket that closes the one in its heading.

    That bracket is certain when it is the last one and either the only one at the end of a line or balanced.
    """
    last = rest.rfind("]")
    ends = [match.start() for match in _LINE_END.finditer(rest)]
    if last < 0 or (ends != [last] and _balanced(rest) != last):
        raise _ambiguous("several brackets may close the second response")
    return rest[:last]


def _balanced(text: str) -> int:
    """The place of the bracket that closes one opened before the text; -1 if there is none."""
    depth = 1
    for bracket in re.finditer(r"[\[\]]", text):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return bracket.start()
    return -1
