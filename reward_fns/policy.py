"""Former name of answer.py, kept for configurations that name it."""

from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from reward_fns.answer import check_ground_truth, compute_score, same_answer
else:  # loaded by its path: by_path.py explains
    _answer = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]("answer")
    check_ground_truth, compute_score = _answer.check_ground_truth, _answer.compute_score
    same_answer = _answer.same_answer

__all__ = ["check_ground_truth", "compute_score", "same_answer"]
