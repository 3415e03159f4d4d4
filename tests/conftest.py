"""What every test may rely on, and how the tests are spread over processes (`make test` uses two)."""

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# A shell that runs a command in the background has it ignore Ctrl-C, and all of its children too: tests that press
# Ctrl-C would wait for an end that does not come.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_STACK = ("tests/e2e/", "tests/judging/test_vllm_engine.py")
"""Tests that start Ray, FSDP or vLLM: two at a time would not fit in the memory of a small machine."""


class KeepsTheRealStackTogether(LoadFileScheduling):  # type: ignore[misc]
    """A file stays in one process, and so does everything that starts the real stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "real stack" if nodeid.startswith(REAL_STACK) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> KeepsTheRealStackTogether:
    return KeepsTheRealStackTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The real stack takes longest: first, so that the other process has the rest to itself."""
    for item in items:
        if item.nodeid.startswith(REAL_STACK):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not item.nodeid.startswith(REAL_STACK))
