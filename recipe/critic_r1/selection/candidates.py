"""Several answers of one policy to one question, sampled once and saved.

Every selector is measured on the same candidates. A candidate has the response as written, the final answer parsed from
it (for majority votes and to find duplicates), and the text that a critic sees: the answer of a short-answer task, the
full response to an open question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

from data_prep.files import json_lines, write_json_lines
from recipe.critic_r1.judging.generation import (
    Generation,
    GenerationRequest,
    Generator,
    ImagePart,
    Message,
    Sampling,
    messages_from_row,
)
from recipe.critic_r1.judging.pairwise import images_blake3
from reward_fns.answer import normalise
from reward_fns.verdict import find_box, unwrap

Shown = Literal["answer", "response"]
"""What a critic sees of a candidate: the final answer only, or the full response."""


@dataclass(frozen=True)
class Problem:
    """A question to the policy.

    problem_id: unique within a run.
    messages: the policy's prompt, images included.
    question: the question without instructions, as a critic sees it.
    ground_truth: the correct answer, used only to measure; None when it is not known.
    place: file and row, for error messages.
    """

    problem_id: str
    messages: tuple[Message, ...] = field(repr=False)
    question: str
    ground_truth: str | None
    place: str = field(default="", compare=False)

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images, in reading order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def image_blake3(self) -> str:
        """Hash of the images: questions about the same images form a cluster."""
        return images_blake3([image.blake3 for image in self.images]) if self.images else self.problem_id


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer.

    index: position among the candidates of its problem, from 0.
    text: the response as written.
    answer: the normalised final answer (`reward_fns.answer.normalise`), by which candidates are compared; None when
        none can be parsed.
    shown: what a critic sees.
    correct: whether the answer is correct; used only to measure and by the oracle.
    finished: False when the token limit ended the response.
    """

    index: int
    text: str
    answer: str | None
    shown: str
    correct: bool
    finished: bool = True


@dataclass(frozen=True)
class Pool:
    """All candidates of one problem.

    prompt_tokens, completion_tokens: of sampling all of them; 0 when not known.
    """

    problem: Problem
    candidates: tuple[Candidate, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0


def final_answer(text: str, *, prefilled: bool = False, finished: bool = True) -> str | None:
    """The content of a response's box (see `reward_fns.verdict.find_box`), or None."""
    content = find_box(text, prefilled=prefilled, finished=finished).content
    return unwrap(content) or None if content is not None else None


def exact_match(answer: str | None, ground_truth: str | None) -> bool:
    """Whether an answer equals the known one exactly."""
    return answer is not None and answer == ground_truth


def make_pool(
    problem: Problem,
    texts: Iterable[str],
    *,
    shown: Shown = "answer",
    is_correct: Callable[[str | None, str | None], bool] = exact_match,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
    finished: Sequence[bool] = (),
    prefilled: bool = False,
) -> Pool:
    """A pool from the responses as written.

    Args:
        finished: per response, whether the model ended it; empty when all did.
        prefilled: whether the chat template already writes `<think>`.
    """
    candidates = []
    for index, (text, ended) in enumerate(zip(texts, chain(finished, repeat(True)), strict=False)):
        answer = final_answer(text, prefilled=prefilled, finished=ended)
        seen = text if shown == "response" else answer or ""
        spelled = None if answer is None else normalise(answer) or None
        candidates.append(Candidate(index, text, spelled, seen, is_correct(answer, problem.ground_truth), ended))
    return Pool(problem, tuple(candidates), prompt_tokens, completion_tokens)


def sample_pools(
    generator: Generator,
    problems: Sequence[Problem],
    sampling: Sampling,
    *,
    shown: Shown = "answer",
    is_correct: Callable[[str | None, str | None], bool] = exact_match,
    prefilled: bool = False,
    lost: list[tuple[Problem, Generation]] | None = None,
) -> list[Pool]:
    """`sampling.n` candidates for each problem, all problems in one batch. Each problem gets a seed of its own.

    Args:
        lost: receives the problems without candidates, which are left out, with the failure.

    Raises:
        RuntimeError: a request failed and `lost` is None.
    """
    generations = generator.generate(
        [GenerationRequest(problem.messages, sampling.for_request(problem.problem_id)) for problem in problems]
    )
    pools = []
    for problem, found in zip(problems, generations, strict=True):
        if found.error is None:
            pools.append(
                make_pool(
                    problem,
                    found.texts,
                    shown=shown,
                    is_correct=is_correct,
                    prompt_tokens=found.prompt_tokens,
                    completion_tokens=found.completion_tokens,
                    finished=found.finished,
                    prefilled=prefilled,
                )
            )
        elif lost is None:
            raise RuntimeError(f"no candidates for problem {problem.problem_id}: {found.error}")
        else:
            lost.append((problem, found))
    return pools


def save_pools(pools: Iterable[Pool], path: Path) -> None:
    """Write a line per problem: `problem_id`, `ground_truth`, `texts`, `finished`, and the tokens of `Pool`."""
    write_json_lines(
        path,
        (
            {
                "problem_id": pool.problem.problem_id,
                "ground_truth": pool.problem.ground_truth,
                "texts": [candidate.text for candidate in pool.candidates],
                "finished": [candidate.finished for candidate in pool.candidates],
                "prompt_tokens": pool.prompt_tokens,
                "completion_tokens": pool.completion_tokens,
            }
            for pool in pools
        ),
    )


def load_pools(path: Path, problems: Sequence[Problem], *, shown: Shown = "answer") -> list[Pool]:
    """Read what `save_pools` wrote for these problems, in their order.

    Raises:
        ValueError: a line is malformed, or the file lacks a problem.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in json_lines(path):
        try:
            if line.error is not None:
                raise ValueError(line.error)
            record = line.value
            found[record["problem_id"]] = {
                "texts": list(record["texts"]),
                "finished": list(record.get("finished", ())),
                # Older files have no tokens.
                **{name: int(record.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")},
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} line {line.number} is not a record of candidates ({error}): sample them again"
            ) from error
    missing = [problem.problem_id for problem in problems if problem.problem_id not in found]
    if missing:
        raise ValueError(
            f"{path} has no candidates for {len(missing)} of {len(problems)} problems (first: {missing[0]}):"
            " they were sampled for other data; sample them again"
        )
    return [make_pool(problem, **found[problem.problem_id], shown=shown) for problem in problems]


def problem_from_row(row: Mapping[str, Any], place: str = "") -> Problem:
    """A problem from a policy row of the task Parquet (`data_source` = `policy/...`).

    Raises:
        ValueError: a field is missing, or images and markers do not match.
    """
    info, label = row["extra_info"] or {}, (row["reward_model"] or {}).get("ground_truth")
    if info.get("pair_id") is None or info.get("question") is None:
        raise ValueError("extra_info lacks pair_id or question: run `critic-r1 validate` on the file")
    return Problem(
        problem_id=str(info["pair_id"]),
        messages=messages_from_row(row["prompt"], row["images"] or ()),
        question=str(info["question"]),
        ground_truth=None if label is None else str(label),
        place=place,
    )
