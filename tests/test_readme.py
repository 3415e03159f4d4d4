"""What the README says was measured is what the committed result files say."""

import json
import re
from pathlib import Path

from benchmarks.demo import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_the_committed_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    assert table(result) in README


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_its_commands_exist() -> None:
    from typer.main import get_command

    from recipe.critic_r1.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in re.findall(r"critic-r1 ([a-z][a-z-]+)", README):
        assert name in commands, name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
