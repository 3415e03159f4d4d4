"""Questions with known answers, from task Parquet files or from third-party rows.

A policy row of a task file holds the whole prompt and is asked as it is. Third-party rows (JSONL, JSON, Parquet with
`question`, `image` and `answer`) get an instruction after the question that says where to think and where to answer,
since what is counted is the answer in the box. Answers are compared as the reward for plain questions compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.reading.inputs import expand_inputs
from recipe.critic_r1.judging.pairwise import read_rows
from recipe.critic_r1.labeling.questions import LostRow, read_prompts
from recipe.critic_r1.selection.candidates import Problem, problem_from_row
from reward_fns.answer import same_answer


def right_answer(answer: str | None, ground_truth: str | None) -> bool:
    """Whether a final answer is the known one, as `reward_fns.answer` sees it."""
    return answer is not None and ground_truth is not None and same_answer(answer, ground_truth)


def read_problems(inputs: Sequence[str], image_roots: Sequence[str] = (), *, instruct: bool = True) -> list[Problem]:
    """All questions of files and folders, each once.

    Args:
        image_roots: folders or zips with the images of rows that name files.
        instruct: whether third-party rows get the instruction to think and box.

    Raises:
        ValueError: there is no question, or a row is not one; the message names file and row.
    """
    problems: dict[str, Problem] = {}
    for file in expand_inputs(inputs):
        found = _ours(Path(file)) if file.endswith(".parquet") else None
        for problem in _others(file, image_roots, instruct) if found is None else found:
            problems.setdefault(problem.problem_id, problem)
    if not problems:
        raise ValueError(f"no question in {', '.join(inputs)}: give policy rows, or rows with question, image, answer")
    return list(problems.values())


def _ours(file: Path) -> list[Problem] | None:
    """The policy rows of a task file; None for a file in another form."""
    try:
        rows = read_rows([file])
    except ValueError as error:
        if "lacks the columns" in str(error):
            return None
        raise
    return [problem_from_row(row, place) for place, row in rows if row["data_source"].startswith("policy/")]


def _others(file: str, image_roots: Sequence[str], instruct: bool) -> list[Problem]:
    problems = []
    for item in read_prompts([file], image_roots):
        if isinstance(item, LostRow):
            raise ValueError(str(item))
        if item.answer is None:
            raise ValueError(str(item.lost("missing-field", "the row has no answer", "Give the row an 'answer'.")))
        asked = item.asked(instruct=instruct)
        problems.append(Problem(item.content_id, asked, item.question, item.answer, f"{item.file} row {item.row}"))
    return problems
