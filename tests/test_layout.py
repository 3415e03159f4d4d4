"""The layout of the project: names that are found by one search, and rooms that do not reach into each other."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_prep", "reward_fns", "recipe/critic_r1")


@pytest.mark.parametrize("package", PACKAGES)
def test_base_names_are_unique(package: str) -> None:
    names = Counter(path.stem for path in (ROOT / package).rglob("*.py") if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_class_names_are_unique() -> None:
    found = Counter(
        node.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.parent.name != "tool_side"  # runs in lmms-eval's environment, and imports nothing of ours
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in found.items() if count > 1] == []


def test_few_modules_are_loose() -> None:
    loose = sorted(path.name for path in (ROOT / "recipe" / "critic_r1").glob("*.py"))
    assert len(loose) <= 6, loose


def imported(path: Path, *, at_module_level: bool = False) -> set[str]:
    """The modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_module_level else list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("package", ["data_prep", "reward_fns"])
def test_the_lower_rooms_do_not_know_the_recipe_nor_load_verl(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not {name for name in imported(path) if name.split(".")[0] == "recipe"}, path
        assert not {name for name in imported(path, at_module_level=True) if name.split(".")[0] == "verl"}, path
