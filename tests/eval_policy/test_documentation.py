"""docs/policy_evaluation.md names only options and suites that exist."""

import re
from pathlib import Path

from typer import Context
from typer.main import get_group

from recipe.critic_r1.cli import app
from recipe.critic_r1.eval_policy.suites import load_suite

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "policy_evaluation.md").read_text(encoding="utf-8")


def test_its_options_exist() -> None:
    group = get_group(app)
    command = group.get_command(Context(group), "eval-policy")
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    lines = re.findall(r"critic-r1 eval-policy (.*)", TEXT)
    assert lines
    for option in re.findall(r"(?<!\S)--[a-z-]+", " ".join(lines)):
        assert option in options, option


def test_its_suite_is_one(tmp_path: Path) -> None:
    (yaml,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    (tmp_path / "mine.yaml").write_text(yaml)
    assert len(load_suite(str(tmp_path / "mine.yaml")).benchmarks) == 2
