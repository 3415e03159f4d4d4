"""What the README says was measured is what the committed result files say."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.demo import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def test_the_table_is_the_committed_result() -> None:
    assert table(result("demo_fresh_seeds.json")) in README


def test_the_prose_is_the_committed_result() -> None:
    fresh, searched = result("demo_fresh_seeds.json"), result("demo.json")
    changes = [
        listed(fresh, "critic/accuracy"),
        listed(searched, "critic/accuracy"),
        listed(searched, "policy/greedy"),
    ]
    for text in changes:
        assert text in README.replace("\n", " "), text
    runs = [*fresh["runs"], fresh["control"]]
    minutes = [sum(run["stages"].values()) / 60 for run in runs]
    assert f"{min(minutes):.0f} to {max(minutes):.0f} minutes" in README
    assert f"{max(run['peak_memory_gb'] for run in runs):.1f} GB" in README


def listed(found: dict[str, Any], metric: str) -> str:
    """The change of each run in points: ``11.0, 13.6 and 15.2``."""
    ends = [run["metrics"][metric] for run in found["runs"]]
    *most, last = (f"{100 * (m['after']['value'] - m['before']['value']):.1f}" for m in ends)
    return f"{', '.join(most)} and {last}"


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_its_commands_exist() -> None:
    from typer.main import get_group

    from recipe.critic_r1.cli import app

    commands = get_group(app).list_commands(None)  # type: ignore[arg-type]
    for name in re.findall(r"critic-r1 ([a-z][a-z-]+)", README):
        assert name in commands, name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
