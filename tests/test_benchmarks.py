"""Every measurement can be started, and what README and docs say was measured is in the result files."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks import demo, readme
from benchmarks.harness import RESULTS, ROOT

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
def test_every_benchmark_imports() -> None:
    modules = sorted(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))
    assert len(modules) > 10
    for name in modules:
        importlib.import_module(name)


def test_the_page_of_measurements_is_current() -> None:
    assert readme.PAGE.read_text(encoding="utf-8") == readme.page(), "run `python -m benchmarks.readme`"


def test_every_result_file_is_on_the_page_with_a_command_that_measures_it() -> None:
    assert sorted(name for _, name, *_ in readme.SECTIONS) == sorted(path.name for path in RESULTS.glob("*.json"))
    for _, name, _, command, _ in readme.SECTIONS:
        module, *arguments = command.split()
        text = (ROOT / "benchmarks" / f"{module}.py").read_text(encoding="utf-8")
        assert name in (*arguments, *re.findall(r"[a-z_]+\.json", text), *(Path(one).name for one in arguments)), name


def test_the_table_of_the_readme_is_on_the_page() -> None:
    assert demo.table(readme.load("demo_fresh_seeds.json")) in readme.page()
    (table,) = re.findall(
        r"<!-- benchmarks/demo\.py, table\(\) -->\n(.*?)\n<!--", DOCS[0].read_text(encoding="utf-8"), re.S
    )
    assert table in readme.page()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_docs_name_only_commands_and_results_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    modules = "".join(module.read_text(encoding="utf-8") for module in (ROOT / "benchmarks").glob("*.py"))
    for name in re.findall(r"benchmarks/results/([\w.]+)", text):
        # A result that no machine has measured yet has at least its command.
        assert (RESULTS / name).is_file() or name in modules, name
    for name in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_a_table_aligns_and_numbers_are_short() -> None:
    assert readme.table(["a", "b"], [["x", 1]]).splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
    assert [readme.number(value) for value in (None, 0.012345, 12.345, 1234.5)] == ["-", "0.0123", "12.3", "1,234"]
