"""Taking a finished judge prompt apart again: question, first response, second response.

Some sets ship the prompt that a judge was shown instead of its parts. Each form below is a triple of headings; the text
between them is cut out by plain searches, in linear time, since these prompts hold text that models wrote. A response
may quote a heading; the first one that follows counts, as it did when the prompt was built.
"""

import re
from dataclasses import dataclass

from data_prep.sources.record import Reject

TAIL = 200
"""Characters at the end of a response in which its closing tag is looked for."""


@dataclass(frozen=True)
class _Form:
    question: re.Pattern[str]
    first: re.Pattern[str]
    second: re.Pattern[str]
    end: re.Pattern[str] | None
    bracketed: bool = False


def _heading(words: str, tail: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\n)[ \t#*]{{0,12}}{words}{tail}", re.IGNORECASE)


_FIRST = r"(?:the first response|(?:response|answer|assistant) (?:1|a))"
_SECOND = r"(?:the second response|(?:response|answer|assistant) (?:2|b))"

_FORMS = (
    # LLaVA-Critic: each part in square brackets behind its heading.
    _Form(
        re.compile(r"(?:^|\s)Question: ?\["),
        _heading(_FIRST, r": ?\["),
        _heading(_SECOND, r": ?\["),
        None,
        bracketed=True,
    ),
    # Arena style: tags around the answers.
    _Form(
        re.compile(r"<\|User Prompt\|>"),
        re.compile(r"<\|The Start of Assistant A's Answer\|>"),
        re.compile(r"<\|The Start of Assistant B's Answer\|>"),
        re.compile(r"<\|The End of Assistant B's Answer\|>"),
    ),
    # LLaVA-Bench style: [Question] ... [Assistant 1] ... [End of Assistant 1] ... [Assistant 2] ...
    _Form(
        re.compile(r"\[Question\]\s"),
        re.compile(r"\[Assistant 1\]\s"),
        re.compile(r"\[Assistant 2\]\s"),
        re.compile(r"\[End of Assistant 2\]"),
    ),
    # Headings in brackets or bold, as R1-Reward writes them: ###### [Question]: / [Response 1]: / [Response 2]:
    _Form(
        _heading(r"\**\[?question\]?\**", r" ?:\**"),
        _heading(rf"\**\[?{_FIRST}\]?\**", r" ?:\**"),
        _heading(rf"\**\[?{_SECOND}\]?\**", r" ?:\**"),
        re.compile(r"\n[ \t]*(?:#{2,}|\**output format|\**\[output)", re.IGNORECASE),
    ),
)
_CLOSERS = re.compile(r"\s*(?:<\|The End of Assistant A's Answer\|>|\[End of Assistant 1\])\s*$")


def split_judge_prompt(prompt: str) -> tuple[str, str, str]:
    """Question, first and second response out of a judge prompt.

    Raises:
        Reject: `not-pairwise` when no known form fits, `empty-text` when a part is empty.
    """
    for form in _FORMS:
        parts = _try(form, prompt)
        if parts is not None:
            return parts
    raise Reject(
        "not-pairwise", "no question with two responses is found in the prompt", "A row of another kind of task."
    )


def _try(form: _Form, prompt: str) -> tuple[str, str, str] | None:
    question = form.question.search(prompt)
    first = question and form.first.search(prompt, question.end())
    second = first and form.second.search(prompt, first.end())
    if not (question and first and second):
        return None
    rest = prompt[second.end() :]
    parts = [prompt[question.end() : first.start()], prompt[first.end() : second.start()], rest]
    if form.bracketed:
        ends = [part.rfind("]") for part in parts]
        if min(ends) < 0:
            return None
        parts = [part[:end] for part, end in zip(parts, ends, strict=True)]
    else:
        parts[1] = parts[1][:-TAIL] + _CLOSERS.sub("", parts[1][-TAIL:])
        if form.end and (end := form.end.search(rest)):
            parts[2] = rest[: end.start()]
    question_part, one, two = (part.strip() for part in parts)
    if not (question_part and one and two):
        # Not the next form: it might take the brackets around nothing for a response.
        raise Reject("empty-text", "the question or a response in the judge prompt is empty")
    return question_part, one, two
