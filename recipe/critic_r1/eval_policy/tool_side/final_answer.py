"""From a response to the text that an official metric gets to see.

Official metrics are written for models that answer at once: some take the first capital letter as the choice, others
the first number. Thoughts would be scored as the answer. A model that thinks in `<think>` and answers in a box is
therefore read by our own parser, the one that its reward used, and the metric sees the content of the box that counts.

Where no box counts nothing is invented: the metric sees what was said outside the thoughts (a base model that never
uses a box is scored as always), and nothing at all when the thoughts never end.

Runs in the environment of lmms-eval: standard library only, and the parser loaded from its file.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[4]


def load(path: Path) -> ModuleType:
    """A module of this project that imports the standard library only, by its file."""
    spec = importlib.util.spec_from_file_location(f"critic_r1_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_verdict = load(ROOT / "reward_fns" / "verdict.py")


def final_answer(text: str, *, prefilled: bool = False, finished: bool = True) -> tuple[str, str]:
    """What the metric sees, and how the response was read (a value of `reward_fns.verdict.Reason`).

    Args:
        prefilled: the chat template already wrote `<think>`.
        finished: False for a response that the token limit ended.

    >>> final_answer("<think>Not A. Not C.</think> So \\\\boxed{\\\\text{B}}.")
    ('B', 'ok')
    >>> final_answer("<think>Not A.</think> It is B.")
    ('It is B.', 'no_box')
    >>> final_answer("<think>Not A, and")
    ('', 'unclosed_think')
    """
    box = _verdict.find_box(text, prefilled=prefilled, finished=finished)
    if box.content is not None:
        return _verdict.unwrap(box.content), box.reason.value
    return text[box.answer_start :].strip(), box.reason.value
