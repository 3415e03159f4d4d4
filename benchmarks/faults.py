"""How many situations the tests try, by kind, and how many of them end as they should.

A situation is one case of a table: a server's answer, a file, a row, an address, a folder.

    python -m benchmarks.faults
"""

import sys
from collections import Counter

import pytest
import typer

from benchmarks.harness import RESULTS, ROOT, Out, write

KINDS = {
    "answers and refusals of servers": ("judging/test_finality.py", "judging/test_failures.py"),
    "servers that break off, hang or lie": ("judging/test_openai_client.py", "judging/test_address.py"),
    "accidents of a whole command": ("judging/test_faults.py",),
    "the critic of a group reward": ("reward_fns/test_chat_judge.py",),
    "public benchmarks, their server and journal": ("cli/test_policy_evaluation.py", "eval_policy/test_lmms_model.py"),
    "bad rows, other people's files and folders": ("cli/test_output_folders.py", "judging/test_comparison.py"),
    "text from strangers": ("cli/test_terminal.py", "report/test_run_files.py"),
    "images": ("data_prep/reading/test_images.py", "data_prep/reading/test_open_image.py"),
    "secrets, and who may ask": ("judging/test_serve.py", "test_redaction.py"),
}
"""Kind -> its tests, below `tests`."""


class _Tally:
    """A plug-in of pytest that counts outcomes by the file of a test."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[0].removeprefix("tests/")
        self.tried[name] += report.when == "call"
        self.failed[name] += report.failed


def main(out: Out = RESULTS / "faults.json") -> None:
    """Run the tests of all kinds and count."""
    tally = _Tally()
    files = [str(ROOT / "tests" / name) for names in KINDS.values() for name in names]
    status = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *files], plugins=[tally])
    kinds = {
        kind: {"tried": sum(tally.tried[n] for n in names), "failed": sum(tally.failed[n] for n in names)}
        for kind, names in KINDS.items()
    }
    write(out, {"kinds": kinds})
    sys.exit(status)


if __name__ == "__main__":
    typer.run(main)
