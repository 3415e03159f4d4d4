"""One whole run and its report, made once: drawing a page's charts takes seconds, reading it does not."""

from pathlib import Path

import pytest

from recipe.critic_r1.report import build_report
from tests.report.made_run import make_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with every file; 60 pairs in both orders before and after. Tests must not write into it."""
    run = make_run(tmp_path_factory.mktemp("report") / "run")
    build_report(run)
    return run


@pytest.fixture(scope="session")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 5,000 judgements an evaluation."""
    run = make_run(tmp_path_factory.mktemp("report") / "large", pairs=2500, steps=3)
    build_report(run)
    return run
