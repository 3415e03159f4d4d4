"""What every test may rely on, whoever runs them, and how they are spread over two processes."""

import signal

import pytest

# A shell that runs a command in the background has it ignore Ctrl-C, and all of its children too: tests that press
# Ctrl-C would wait for an end that does not come.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file in one process, and everything that starts the real stack in one: two of them would not fit.

    The real stack comes first, so that the other process has the rest to itself.
    """
    for item in items:
        real_stack = item.get_closest_marker("e2e") is not None
        item.add_marker(pytest.mark.xdist_group("real stack" if real_stack else str(item.path)))
        if real_stack:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
