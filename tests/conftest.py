"""What every test may rely on, and how the tests are spread over processes (`make test` uses two)."""

import gc
import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# A shell that runs a command in the background has it ignore Ctrl-C, and all of its children too: tests that press
# Ctrl-C would wait for an end that does not come.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_STACK = ("tests/e2e/", "tests/judging/test_vllm_engine.py")
"""Tests that start Ray, FSDP or vLLM: two at a time would not fit in the memory of a small machine."""

LONGEST = (
    *REAL_STACK,
    "tests/rehearsal/",
    "tests/images/test_prompts.py",
    "tests/launch/",
    "tests/rollout/",
    "tests/demo/",
)
"""These run first, in this order: a long file at the end would keep one process waiting for the other."""

SLOW = (
    *REAL_STACK,
    "tests/cli/test_output_folders.py",
    "tests/data_prep/lengths/",
    "tests/data_prep/sources/test_image_responses.py::test_a_page",
    "tests/data_prep/sources/test_labels.py::test_a_whole_set",
    "tests/data_prep/test_accounting.py",
    "tests/data_prep/test_convert.py",
    "tests/data_prep/test_output.py",
    "tests/data_prep/test_pool.py",
    "tests/data_prep/test_repeats.py",
    "tests/data_prep/test_restart.py",
    "tests/demo/test_warm_start.py",
    "tests/images/test_prompts.py::test_all_results",
    "tests/images/test_prompts.py::test_a_prompt_is_computed_once",
    "tests/images/test_prompts.py::test_bfloat16",
    "tests/judging/test_faults.py",
    "tests/labeling/test_labeler.py",
    "tests/launch/test_processes.py",
    "tests/launch/test_staged.py",
    "tests/launch/test_submit.py::test_a_cluster",
    "tests/launch/test_submit.py::test_a_job",
    "tests/launch/test_submit.py::test_a_mistake",
    "tests/launch/test_supervisor.py",
    "tests/preflight/test_data_files.py",
    "tests/preflight/test_memory_estimate.py",
    "tests/preflight/test_model_folder.py",
    "tests/preflight/test_preflight.py",
    "tests/preflight/test_reward_function.py",
    "tests/rehearsal/test_dress_rehearsal.py",
    "tests/rehearsal/test_outcome.py",
    "tests/report/test_judged_groups.py::test_the_page",
    "tests/report/test_page.py",
    "tests/report/test_side_by_side.py",
    "tests/reward_fns/test_symbolic.py",
    "tests/rollout/test_shared_rollout.py",
    "tests/rollout/test_vllm_process.py",
    "tests/test_examples.py",
    "tests/test_plugin.py",
    "tests/training/test_export.py",
)
"""Beginnings of the names of tests that take seconds: they convert a set, compose configurations, draw a page or start
processes. A single test is marked where it is defined."""


class KeepsTheRealStackTogether(LoadFileScheduling):  # type: ignore[misc]
    """A file stays in one process, and so does everything that starts the real stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "real stack" if nodeid.startswith(REAL_STACK) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> KeepsTheRealStackTogether:
    return KeepsTheRealStackTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and start with what takes longest."""
    for item in items:
        if item.nodeid.startswith(SLOW) or item.get_closest_marker("bench"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), 99))


@pytest.fixture(scope="module", autouse=True)
def libraries_are_no_garbage() -> None:
    """Leave what is loaded out of the search for garbage: with torch and verl among it, each search takes seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's untrained model: a whole folder of the real architecture. Tests must not write into it."""
    from recipe.critic_r1.demo.model import build_model

    return build_model(tmp_path_factory.mktemp("model"), seed=0)
