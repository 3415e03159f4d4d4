"""Candidates: reading answers, sampling once, keeping them."""

from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.judging.generation import Generation, Sampling
from recipe.critic_r1.selection.candidates import final_answer, load_pools, make_pool, sample_pools, save_pools


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>I see a 7.</think>\\boxed{7}", "7"),
        ("<think>\\boxed{1}</think>\\boxed{\\text{ 12 cm }}", "12 cm"),
        ("<think>\\boxed{1}</think>so it is", None),
        ("<think>never ends \\boxed{7}", None),
        ("<think>x</think>\\boxed{}", None),
        ("<think>x</think>\\boxed{1} or \\boxed{2}", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_what_a_critic_sees(pool: Any) -> None:
    problem = pool("p", [1]).problem
    text = "<think>I see a 7.</think>\\boxed{7}"
    assert make_pool(problem, [text, "?"]).candidates[0].shown == "7"
    assert make_pool(problem, [text, "?"]).candidates[1].shown == ""
    assert make_pool(problem, [text], shown="response").candidates[0].shown == text


class Sampler:
    """Numbers its answers; fails for one problem when told to."""

    def __init__(self, failing: int = -1) -> None:
        self.failing, self.calls = failing, 0
        self.seeds: list[int | None] = []

    def generate(self, requests: Any) -> list[Generation]:
        self.calls += 1
        self.seeds = [request.sampling.seed for request in requests]
        return [
            Generation((), error="503")
            if i == self.failing
            else Generation(
                tuple(f"<think>.</think>\\boxed{{{i * 10 + k}}}" for k in range(r.sampling.n)),
                prompt_tokens=7,
                completion_tokens=5 * r.sampling.n,
            )
            for i, r in enumerate(requests)
        ]


def test_sampled_once_in_one_batch_and_kept(pool: Any, tmp_path: Path) -> None:
    problems = [pool(f"p{i}", [0], truth=i * 10 + 1).problem for i in range(3)]
    sampler = Sampler()
    pools = sample_pools(sampler, problems, Sampling(temperature=1.0, n=4, seed=1))
    assert sampler.calls == 1
    assert len(set(sampler.seeds)) == 3, "problems must not share their luck"
    assert [[c.correct for c in p.candidates] for p in pools] == [[False, True, False, False]] * 3
    assert {(p.prompt_tokens, p.completion_tokens) for p in pools} == {(7, 20)}
    save_pools(pools, tmp_path / "candidates.jsonl")
    assert load_pools(tmp_path / "candidates.jsonl", problems[::-1]) == pools[::-1]


def test_missing_candidates_are_an_error(pool: Any, tmp_path: Path) -> None:
    problems = [pool(f"p{i}", [0]).problem for i in range(3)]
    with pytest.raises(RuntimeError, match="problem p1: 503"):
        sample_pools(Sampler(failing=1), problems, Sampling(temperature=1.0, n=2))
    path = tmp_path / "candidates.jsonl"
    save_pools([pool("p0", [1])], path)
    with pytest.raises(ValueError, match=r"no candidates for 2 of 3 problems \(first: p1\)"):
        load_pools(path, problems)
    path.write_text('{"problem_id": "p0", "texts": ["x"]}\n')
    assert load_pools(path, problems[:1])[0].completion_tokens == 0, "a file from before tokens were kept"
    path.write_text('{"problem_id": "p0"}\n')
    with pytest.raises(ValueError, match="line 1 is not a record"):
        load_pools(path, problems)
