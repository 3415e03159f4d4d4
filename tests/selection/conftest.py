"""Problems with known candidates, and critics whose rule is known."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from data_prep.tasks.prompts import get_template
from recipe.critic_r1.judging.generation import (
    Generation,
    GenerationRequest,
    ImagePart,
    Message,
    Sampling,
    TextPart,
)
from recipe.critic_r1.selection.candidates import Pool, Problem, make_pool
from recipe.critic_r1.selection.matches import MatchJudge, critic_prompt

PAIR = re.compile(r"Response 1: (.*)\nResponse 2: (.*)\n")


class ScriptedCritic:
    """Sees the two texts of a request, answers by a rule `(first, second, request) -> text or error`."""

    def __init__(self, rule: Callable[[str, str, GenerationRequest], "str | Generation"]) -> None:
        self.rule = rule
        self.requests: list[GenerationRequest] = []
        self.batches: list[int] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.batches.append(len(requests))
        self.requests += requests
        answers = []
        for request in requests:
            (message,) = request.messages
            first, second = PAIR.search("".join(p.text for p in message.parts if isinstance(p, TextPart))).groups()  # type: ignore[union-attr]
            answer = self.rule(first, second, request)
            answers.append(
                answer
                if isinstance(answer, Generation)
                else Generation((answer,), prompt_tokens=30, completion_tokens=9)
            )
        return answers

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What was shown, in order."""
        return [
            PAIR.search("".join(p.text for p in r.messages[0].parts if isinstance(p, TextPart))).groups()  # type: ignore[union-attr,misc]
            for r in self.requests
        ]


def box(choice: object) -> str:
    return f"<think>Compared.</think>\\boxed{{{choice}}}"


def largest(first: str, second: str, request: GenerationRequest) -> str:
    """A critic without a habit that likes larger numbers."""
    return box(1 if float(first) > float(second) else 2)


def _pool(name: str, answers: Sequence[object], truth: object = None) -> Pool:
    problem = Problem(
        problem_id=name,
        messages=(Message("user", (ImagePart(f"image of {name}".encode()), TextPart("How many?"))),),
        question="How many?",
        ground_truth=None if truth is None else str(truth),
    )
    return make_pool(problem, ["no answer" if a is None else box(a) for a in answers])


@pytest.fixture
def pool() -> Callable[..., Pool]:
    return _pool


@pytest.fixture
def critic() -> type[ScriptedCritic]:
    return ScriptedCritic


@pytest.fixture
def rules() -> dict[str, Any]:
    return {
        "largest": largest,
        "first": lambda a, b, r: box(1),
        "second": lambda a, b, r: box(2),
        "unreadable": lambda a, b, r: "hm",
        "failing": lambda a, b, r: Generation((), error="500"),
    }


@pytest.fixture
def referee() -> Callable[..., MatchJudge]:
    def build(generator: ScriptedCritic, **settings: Any) -> MatchJudge:
        return MatchJudge(generator, critic_prompt(get_template("compact")), Sampling(max_tokens=16), **settings)

    return build
