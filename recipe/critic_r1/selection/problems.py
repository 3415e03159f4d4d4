"""Questions with known answers, from task Parquet files or from third-party rows.

A policy row of a task file has the complete prompt. Third-party rows (JSONL, JSON, Parquet with `question`, `image` and
`answer`) get the instruction to think and to box the answer, since the boxed answer counts. Answers are compared as in
the reward for questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.reading.inputs import expand_inputs
from recipe.critic_r1.judging.pairwise import read_rows
from recipe.critic_r1.labeling.questions import LostRow, read_prompts
from recipe.critic_r1.selection.candidates import Problem, problem_from_row
from reward_fns.answer import same_answer


def right_answer(answer: str | None, ground_truth: str | None) -> bool:
    """Whether a final answer equals the known one, by `reward_fns.answer`."""
    return answer is not None and ground_truth is not None and same_answer(answer, ground_truth)


def read_problems(
    inputs: Sequence[str],
    image_roots: Sequence[str] = (),
    *,
    instruct: bool = True,
    lost: list[str] | None = None,
) -> list[Problem]:
    """All questions of files and folders, each once.

    Args:
        image_roots: folders or zips with the images of rows that name files.
        instruct: whether third-party rows get the instruction to think and box.
        lost: receives a message for each unusable row, which is left out.

    Raises:
        ValueError: no usable question, or an unusable row when `lost` is None; the message names file and row.
    """
    problems: dict[str, Problem] = {}
    bad: list[str] = []
    for file in expand_inputs(inputs):
        found = _ours(Path(file)) if file.endswith(".parquet") else None
        for problem in _others(file, image_roots, instruct) if found is None else found:
            if isinstance(problem, str):
                bad.append(problem)
            else:
                problems.setdefault(problem.problem_id, problem)
    if bad and (lost is None or not problems):
        raise ValueError(bad[0])
    if not problems:
        raise ValueError(f"no question in {', '.join(inputs)}: give policy rows, or rows with question, image, answer")
    if lost is not None:
        lost += bad
    return list(problems.values())


def _ours(file: Path) -> Iterator[Problem | str] | None:
    """The policy rows of a task file; None for a file in another format."""
    try:
        rows = read_rows([file])
    except ValueError as error:
        if "lacks the columns" in str(error):
            return None
        raise
    return (_problem(row, place) for place, row in rows if (row["data_source"] or "policy/").startswith("policy/"))


def _problem(row: Mapping[str, Any], place: str) -> Problem | str:
    try:
        if row["data_source"] is None:
            raise ValueError("no data_source: run `critic-r1 validate` on the file")
        return problem_from_row(row, place)
    except ValueError as error:
        return f"{place}: {error}"


def _others(file: str, image_roots: Sequence[str], instruct: bool) -> Iterator[Problem | str]:
    for item in read_prompts([file], image_roots):
        if isinstance(item, LostRow):
            yield str(item)
        elif item.answer is None:
            yield str(item.lost("missing-field", "the row has no answer", "Give the row an 'answer'."))
        else:
            place = f"{item.file} row {item.row}"
            yield Problem(item.content_id, item.asked(instruct=instruct), item.question, item.answer, place)
