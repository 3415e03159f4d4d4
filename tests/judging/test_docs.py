"""docs/judging.md names only commands, options and configurations that exist."""

import re
from pathlib import Path

import typer

from recipe.critic_r1.cli import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8")


def lines() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_every_command_and_option_exists() -> None:
    group = typer.main.get_group(app)
    context = typer.Context(group)
    commands = {name: c for name in group.list_commands(context) if (c := group.get_command(context, name))}
    seen = set()
    for line in lines():
        words = line.partition(" #")[0].split()
        if words[0] != "critic-r1":
            continue
        name = words[1]
        options = {option for parameter in commands[name].params for option in parameter.opts}
        if name != "serve":
            assert {word for word in words if word.startswith("--")} <= options, line
        seen.add(name)
    assert seen == {"serve", "judge", "compare", "best-of-n", "label", "validate", "export"}
    # Options in the text belong to some command, or to vLLM's.
    known = {option for command in commands.values() for p in command.params for option in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", TEXT)) - known == {"--served-model-name", "--max-model-len", "--host"}


def test_every_file_exists() -> None:
    for path in re.findall(r"`((?:benchmarks|tests|docs)/[\w/.-]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:judging|selection|config)/[\w/.-]+)`", TEXT):
        assert (ROOT / "recipe" / "critic_r1" / path).exists(), path
    assert "+variant=self_improvement" in TEXT
    assert (ROOT / "recipe/critic_r1/config/variant/self_improvement.yaml").exists()
