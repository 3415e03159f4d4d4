"""What every test may rely on, and how the tests are spread over processes (`make test` uses two)."""

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

LONGEST = (*REAL_STACK, "tests/rehearsal/")
"""These run first, in this order: a long file at the end would keep one process waiting for the other."""


class KeepsTheRealStackTogether(LoadFileScheduling):  # type: ignore[misc]
    """A file stays in one process, and so does everything that starts the real stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "real stack" if nodeid.startswith(REAL_STACK) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> KeepsTheRealStackTogether:
    return KeepsTheRealStackTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and start with what takes longest."""
    for item in items:
        if item.nodeid.startswith(REAL_STACK) or item.get_closest_marker("bench"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), 99))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's untrained model: a whole folder of the real architecture. Tests must not write into it."""
    from recipe.critic_r1.demo.model import build_model

    return build_model(tmp_path_factory.mktemp("model"), seed=0)
