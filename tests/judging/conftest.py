"""A scripted judge: answers by rule, remembers what it was asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, Message, TextPart
from recipe.critic_r1.judging.pairwise import REQUEST_FAILED, Judgement, JudgeTask

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


def _task(pair_id: str, order: int, *, better: int = 0, image: str | None = None) -> JudgeTask:
    """A pair of responses A and B about one image; `better` is the place of the better one in order 0."""
    shown = ("A", "B") if order == 0 else ("B", "A")
    text = f"Response 1: {shown[0]} Response 2: {shown[1]}"
    return JudgeTask(
        pair_id=pair_id,
        order=order,
        messages=(Message("user", (ImagePart((image or pair_id).encode()), TextPart(text))),),
        question="which?",
        response_1=shown[0],
        response_2=shown[1],
        ground_truth="1" if better == order else "2",
        image_blake3=image or pair_id,
        category="made",
    )


@pytest.fixture
def task() -> Callable[..., JudgeTask]:
    return _task


@pytest.fixture
def said(task: Callable[..., JudgeTask]) -> Callable[..., Judgement]:
    """A judgement of pair `name` in an order: right, wrong, unreadable (None), or failed ("error")."""

    def build(name: str, order: int, right: Any, category: str = "", group: str = "") -> Judgement:
        made = replace(task(name, order), category=category, group=group or name)
        if right == "error":
            return Judgement(made, None, REQUEST_FAILED, 0.0, (), "", error="503")
        wrong = "2" if made.ground_truth == "1" else "1"
        pred = None if right is None else made.ground_truth if right else wrong
        return Judgement(made, pred, "no_box" if pred is None else "ok", 1.0, (pred,), "")

    return build
