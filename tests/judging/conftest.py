"""A scripted judge: answers by rule, remembers what it was asked."""

from collections.abc import Callable, Sequence

import pytest

from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, Message, TextPart
from recipe.critic_r1.judging.pairwise import JudgeTask

Rule = Callable[[GenerationRequest], "str | Generation"]


class ScriptedGenerator:
    """Answers each request by a rule and keeps the batches."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.batches: list[list[GenerationRequest]] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.batches.append(list(requests))
        answers = [self.rule(request) for request in requests]
        return [
            a if isinstance(a, Generation) else Generation((a,) * r.sampling.n)
            for a, r in zip(answers, requests, strict=True)
        ]


@pytest.fixture
def scripted() -> type[ScriptedGenerator]:
    return ScriptedGenerator


def _task(pair_id: str, order: int, *, better: int = 0, picture: str | None = None) -> JudgeTask:
    """A pair of responses A and B about one picture; `better` is the place of the better one in order 0."""
    shown = ("A", "B") if order == 0 else ("B", "A")
    text = f"Response 1: {shown[0]} Response 2: {shown[1]}"
    return JudgeTask(
        pair_id=pair_id,
        order=order,
        messages=(Message("user", (ImagePart((picture or pair_id).encode()), TextPart(text))),),
        question="which?",
        response_1=shown[0],
        response_2=shown[1],
        ground_truth="1" if better == order else "2",
        picture_sha256=picture or pair_id,
        category="made",
    )


@pytest.fixture
def task() -> Callable[..., JudgeTask]:
    return _task
