"""The library's functions against the fake server, plainly and inside a running event loop."""

import asyncio
from typing import Any

import pytest

from data_prep.tasks.pairwise import Image, PreferencePair
from recipe.critic_r1.judging.api import (
    OpenAIJudge,
    best_of_n,
    best_of_n_async,
    judge_pairs,
    judge_pairs_sync,
    label,
    label_async,
)
from recipe.critic_r1.labeling.questions import LabelPrompt
from tests.judging.fake_server import FakeServer, prefers_larger

IMAGE = Image(b"\x89PNG made up")
PAIRS = [PreferencePair("mine", [IMAGE], f"How many, {i}?", ("7", "3"), 0) for i in range(3)]
PROMPTS = [LabelPrompt("made", i, "", (IMAGE,), f"How many, {i}?", ("1", "5", "3")) for i in range(2)]


def checked(judged: Any, best: Any, labelled: Any) -> None:
    assert [[j.pred for j in both] for both in judged] == [["1", "2"]] * 3
    assert (best.winner.text, best.failed) == ("9", 0)
    assert len(labelled) == 6
    assert {(d.outcome, d.preference("mine", "m").responses[d.chosen]) for d in labelled} == {
        ("labelled", "5"),
        ("labelled", "3"),
    }


def plainly(judge: OpenAIJudge) -> tuple[Any, Any, Any]:
    best = best_of_n("How many?", [IMAGE], ["2", "9", "4", "9"], judge)
    return judge_pairs_sync(PAIRS, judge), best, label(PROMPTS, judge)


async def awaited(judge: OpenAIJudge) -> tuple[Any, Any, Any]:
    best = await best_of_n_async("How many?", [IMAGE], ["2", "9", "4", "9"], judge)
    return await judge_pairs(PAIRS, judge), best, await label_async(PROMPTS, judge)


async def plainly_in_a_loop(judge: OpenAIJudge) -> tuple[Any, Any, Any]:
    return plainly(judge)


@pytest.mark.parametrize("how", ["plainly", "awaited", "plainly in a loop"])
def test_all_functions(how: str) -> None:
    with FakeServer(prefers_larger) as server, OpenAIJudge(server.url, "m", template="compact") as judge:
        if how == "plainly":
            checked(*plainly(judge))
        else:
            checked(*asyncio.run((awaited if how == "awaited" else plainly_in_a_loop)(judge)))


def test_no_response_is_refused() -> None:
    with OpenAIJudge("http://127.0.0.1:9/v1", "m") as judge, pytest.raises(ValueError, match="at least one"):
        best_of_n("How many?", [IMAGE], [], judge)
