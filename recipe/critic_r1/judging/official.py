r"""The benchmarks' own judge protocols, for results that are comparable with published ones.

The templates come without a licence to redistribute them, so they are read from the benchmark's own code, which the
user has cloned (`--official-code FOLDER`). The file is parsed, never run, and refused unless the template's SHA-256 is
the one below.

As in a protocol: the template, the image after the text, unmodified free text, the sampling settings. Different: the
official script shows each vote in a random order, here every pair is judged in both orders with all votes; and the
script flips a coin for an unreadable verdict or drops it, here it counts as incorrect.

These prompts do not ask for a box, and a judge may quote a box from a response. So a box is a verdict only when the
answer begins with it, as our own critics write it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from recipe.critic_r1.judging.generation import Message, Sampling, TextPart
from recipe.critic_r1.judging.pairwise import JudgeTask
from reward_fns.verdict import BOX_OPEN, Reason, Verdict, find_box, parse_verdict

CHOICES = ("1", "2")
"""No official prompt offers a tie."""

LARGEST_FILE = 1 << 20
"""Bytes; the files with the templates have 5 kB."""


@dataclass(frozen=True)
class Protocol:
    """How a benchmark prompts a judge."""

    source: str
    """Name of the data set in `data_prep.sources`."""
    repository: str
    """Repository with the benchmark's code."""
    path: str
    """File in the repository with the template."""
    variable: str
    """Name of the string in that file: an f-string, or one for `str.format`."""
    fields: Mapping[str, str]
    """Expression or name of a field in that string -> question, response_1 or response_2."""
    sha256: str
    """Hash of the template with our field names in braces."""
    sampling: Sampling
    """Settings of the official run, for one vote."""
    asked: re.Pattern[str]
    """The verdict in the form that the prompt asks for; its group is the choice."""
    marks: tuple[str, ...] = ()
    """Phrases before the verdict, the most reliable first."""


PROTOCOLS = {
    p.source: p
    for p in (
        Protocol(
            source="vl_rewardbench",
            repository="https://github.com/vl-rewardbench/VL_RewardBench",
            path="prompt.py",
            variable="prompt_str",
            fields={"data_obj['query']": "question", "answers[0]": "response_1", "answers[1]": "response_2"},
            sha256="b237326d5da205d25c913f938c69271672e6bd05896f4ffc7e4076a25ada3462",
            sampling=Sampling(temperature=0.2, top_p=0.2, max_tokens=2048),
            asked=re.compile(
                r"(?<!not )(?<!whether )(?<!if )\banswer\s*([12])\s+is\s+(?:the\s+)?"
                r"(?:(?:clearly|slightly|marginally|significantly|much|overall|therefore)\s+)?better\b",
                re.IGNORECASE,
            ),
            marks=("overall judge?ment", "therefore"),
        ),
        Protocol(
            source="multimodal_rewardbench",
            repository="https://github.com/facebookresearch/multimodal_rewardbench",
            path="scripts/1_run_model_as_judge_gpt4o.py",
            variable="judge_prompt",
            fields={"question": "question", "answer_a": "response_1", "answer_b": "response_2"},
            sha256="1ae2ecf732c4628d6c912c9e6a4a131b3753a5fcff99eede26374383771fb88a",
            # The script leaves the temperature to the server; the protocol's default is 1.
            sampling=Sampling(temperature=1.0, max_tokens=1024),
            asked=re.compile(r"\[\[([AB])\]\]"),
        ),
    )
}
"""By data set. There is none for MM-RLHF-RewardBench, which publishes no template for a pairwise judge."""

_OTHER_ANSWERS = re.compile(r"\b(?:final answer|choice)\b", re.IGNORECASE)
"""In a maths item these refer to a response's result, not to the better response."""


@dataclass(frozen=True)
class OfficialPrompt:
    """A protocol with its template: `pieces` are (text, name of the field after it or None)."""

    protocol: Protocol
    pieces: tuple[tuple[str, str | None], ...]

    def task(self, task: JudgeTask) -> JudgeTask:
        """The same pair in the same order with the official prompt; the images follow the text."""
        values = {"question": task.question, "response_1": task.response_1, "response_2": task.response_2}
        text = "".join(literal + (values[name] if name else "") for literal, name in self.pieces)
        images = [image for message in task.messages for image in message.images]
        return replace(task, messages=(Message("user", (TextPart(text), *images)),))

    def read(self, text: str, *, prefilled: bool = False, finished: bool = True) -> Verdict:
        """The verdict of a reply: in the form that the prompt asks for, else a box, else by the lenient parser.

        Contradictory statements give no verdict. In VL-RewardBench, where a reply first compares criterion by
        criterion, only what follows the overall judgement counts, if there is one.
        """
        box = find_box(text, prefilled=prefilled, finished=finished)
        if box.reason in (Reason.CUT_OFF, Reason.UNCLOSED_THINK):
            return Verdict(None, False, box.reason)
        start = box.answer_start
        answer = text[start:].replace("*", "")
        if picks := self._picks(answer):
            return parse_verdict(" ".join(f"[[{pick}]]" for pick in picks), parsing="lenient", choices=CHOICES)
        if answer.lstrip().startswith(BOX_OPEN):
            return parse_verdict(text, parsing="lenient", choices=CHOICES)
        plain = _OTHER_ANSWERS.sub("result", answer).replace(BOX_OPEN, "{")
        return parse_verdict(text[:start] + plain, parsing="lenient", choices=CHOICES)

    def _picks(self, answer: str) -> list[str]:
        """The choices in the form that the prompt asks for, after the last mark that such a choice follows."""
        picks = [(match.start(), match[1]) for match in self.protocol.asked.finditer(answer)]
        for mark in self.protocol.marks:
            ends = [match.end() for match in re.finditer(mark, answer, re.IGNORECASE)]
            if picks and (followed := [end for end in ends if end <= picks[-1][0]]):
                return [pick for place, pick in picks if place >= followed[-1]]
        return [pick for _, pick in picks]


def load_prompt(source: str, code: Path | None) -> OfficialPrompt:
    """The official prompt of a benchmark, read from its own code.

    Args:
        source: name of the data set, such as `vl_rewardbench`.
        code: a clone of the benchmark's repository, or the file in it with the template.

    Raises:
        ValueError: no protocol is known for the data set, no code was given, or the file has another template.
        FileNotFoundError: there is no such file.
    """
    protocol = PROTOCOLS.get(source)
    if protocol is None:
        raise ValueError(
            f"no official judge template is known for {source!r}, only for {', '.join(PROTOCOLS)}; use --prompt r1 for"
            " other data"
        )
    if code is None:
        raise ValueError(
            f"the official template of {source} comes without a licence, so it is not shipped: clone"
            f" {protocol.repository} and give the folder with --official-code"
        )
    path = code / protocol.path if code.is_dir() else code
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: --official-code takes a clone of {protocol.repository}")
    pieces = _pieces(path, protocol)
    found = template_sha256(pieces)
    if found != protocol.sha256:
        raise ValueError(
            f"{path} has another template than the official one (SHA-256 {found[:12]}, not {protocol.sha256[:12]}):"
            f" use {protocol.path} as it is in {protocol.repository}"
        )
    return OfficialPrompt(protocol, pieces)


def template_sha256(pieces: tuple[tuple[str, str | None], ...]) -> str:
    """Hash of a template with the field names in braces."""
    text = "".join(literal + (f"{{{name}}}" if name else "") for literal, name in pieces)
    return hashlib.sha256(text.encode()).hexdigest()


def _pieces(path: Path, protocol: Protocol) -> tuple[tuple[str, str | None], ...]:
    """The template in a Python file, without running it."""
    wrong = f"{path} has no string {protocol.variable} with the fields {', '.join(protocol.fields)}"
    remedy = f"use {protocol.path} as it is in {protocol.repository}"
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is too large to be the file with the template: {remedy}")
    try:
        tree = ast.parse(path.read_bytes())
        values = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [protocol.variable]
        ]
        return tuple((text, None if name is None else protocol.fields[name]) for text, name in _split(values[0]))
    except (SyntaxError, ValueError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"{wrong}: {remedy}") from error


def _split(value: ast.expr) -> list[tuple[str, str | None]]:
    """A string in source code as (text, name of the field after it or None)."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [(literal, name) for literal, name, _, _ in Formatter().parse(value.value)]
    if not isinstance(value, ast.JoinedStr):
        raise ValueError(f"a string is expected, not {ast.unparse(value)[:80]}")
    pieces: list[tuple[str, str | None]] = []
    literal = ""
    for part in value.values:
        if isinstance(part, ast.FormattedValue):
            pieces.append((literal, ast.unparse(part.value)))
            literal = ""
        elif isinstance(part, ast.Constant):
            literal += str(part.value)
    return [*pieces, (literal, None)] if literal else pieces
