"""Suites against what the installed tool said of itself (installed.json)."""

from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.eval_policy.suites import faults, installed, load_suite, names


@pytest.mark.parametrize("name", names())
def test_every_task_and_metric_is_the_installed_tools(name: str) -> None:
    assert faults(load_suite(name), installed()) == []


def test_the_record_is_of_the_pinned_tool() -> None:
    pins = (Path(__file__).parents[2] / "requirements" / "lmms-eval.txt").read_text()
    assert f"\nlmms-eval=={installed()['lmms_eval']}\n" in pins


def test_26_benchmarks_in_the_papers_five_groups() -> None:
    suite = load_suite("paper26")
    assert list(suite.groups) == ["general", "reasoning", "chart", "video", "agent"]
    assert len(suite.benchmarks) == 26
    assert "our choice" in suite.about


def test_five_tasks_for_self_critique_out_of_them() -> None:
    suite = load_suite("self_critique")
    assert len(suite.benchmarks) == 5
    assert set(suite.benchmarks) <= set(load_suite("paper26").benchmarks)
    assert "our choice" in suite.about


ONE = "about: mine\ngroups: {all: [{task: mmstar, metric: average}]}\n"


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"task": "mmstar", "metrics": ["average"], "error": None}, None),
        ({"task": "mmstar", "metrics": ["accuracy"], "error": None}, "no metric 'average', but accuracy"),
        ({"task": "mmstar", "error": "ModuleNotFoundError: anls"}, "does not load: ModuleNotFoundError: anls"),
        ({"task": "gqa", "metrics": ["average"], "error": None}, "0.7.3 has no such task"),
    ],
)
def test_what_the_tool_does_not_agree_with(tmp_path: Path, told: dict[str, Any], fault: str | None) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ONE)
    found = faults(load_suite(str(path)), {"lmms_eval": "0.7.3", "tasks": [told]})
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE.replace("metric", "metrics"), "metric"),
        (ONE.replace("mmstar", "mm star; rm"), "pattern"),
        (ONE.replace("groups: {all:", "groups: {b: [{task: mmstar, metric: average}], all:"), "mmstar stands twice"),
        ("about: [", "mine.yaml"),
        ("about: none\ngroups: {}\n", "groups"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no suite 'paper': have paper26, rows, self_critique"):
        load_suite("paper")
