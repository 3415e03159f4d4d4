"""The snippets of docs/api.md run, in their order, against a fake server; public names are lazy."""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import recipe.critic_r1 as library
from tests.judging.fake_server import FakeServer, answer, say

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)


def prefers_seven_five_nine(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that prefers the larger number."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    first, second = map(int, re.findall(r"Response [12]:\s*(\d+)", text))
    return answer(body, say(1 if first > second else 2))


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(SNIPPETS) >= 6
    monkeypatch.chdir(tmp_path)

    async def run(names: dict[str, Any]) -> None:
        for number, snippet in enumerate(SNIPPETS, 1):
            code = compile(snippet, f"docs/api.md, snippet {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.isawaitable(result):
                await result

    with FakeServer(prefers_seven_five_nine) as server:
        asyncio.run(run({"URL": server.url}))
    assert (tmp_path / "tasks" / "manifest.json").is_file()


def test_every_public_name_exists_and_unknown_ones_do_not() -> None:
    for name in library.__all__:
        assert getattr(library, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        library.nothing  # noqa: B018


def test_the_package_is_light_until_a_name_is_used() -> None:
    code = "import sys, recipe.critic_r1; print({'verl', 'torch', 'openai', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
