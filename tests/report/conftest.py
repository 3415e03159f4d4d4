"""Runs and their pages, each made once: drawing a page's charts takes seconds, reading it does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from recipe.critic_r1.report import build_page, build_report
from tests.report.chromium import browser
from tests.report.made_judge import (
    benchmark,
    judgements,
    make_best_of_n,
    make_judge_run,
    make_policy_run,
    write_benchmark,
    write_judgements,
)
from tests.report.made_run import make_run


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this folder; it is closed after them."""
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with every file; 60 pairs in both orders before and after. Tests must not write into it."""
    run = make_run(tmp_path_factory.mktemp("report") / "run")
    build_report(run)
    return run


@pytest.fixture(scope="session")
def judge_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two judge runs on the same 90 pairs (`base`, `tuned`), their benchmark (`bench`), best-of-N runs
    (`sampled_a`, `sampled_b`), policy evaluations (`policy_a`, `policy_b`), and `report.html` on all six runs."""
    root = tmp_path_factory.mktemp("report") / "judged"
    listed = benchmark(90)
    bench = write_benchmark(root / "bench", listed)
    runs = [
        make_judge_run(root / "base", listed, 0.5, 1, "base <model>"),
        make_judge_run(root / "tuned", listed, 0.85, 2, "tuned"),
        make_best_of_n(root / "sampled_a", 0.02),
        make_best_of_n(root / "sampled_b", 0.08),
        make_policy_run(root / "policy_a", 0.0),
        make_policy_run(root / "policy_b", 0.12),
    ]
    build_page([str(run) for run in runs], root / "report.html", data=[bench])
    return root


@pytest.fixture(scope="session")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge run with 5,000 judgements of 1,250 images."""
    run = tmp_path_factory.mktemp("report") / "large"
    listed = benchmark(2500)
    write_benchmark(run / "tasks", listed)
    write_judgements(run, judgements(listed, 0.7, 3))
    (run / "judge.json").write_text('{"model": "m"}', encoding="utf-8")
    build_report(run)
    return run
