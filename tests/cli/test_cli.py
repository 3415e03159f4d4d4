"""The command line as a whole: what it loads, and what it says to a name that it does not know."""

import subprocess
import sys
from pathlib import Path

from typer import Context
from typer.main import get_group
from typer.testing import CliRunner

from recipe.critic_r1.cli import MODULES, app


def test_every_command_stands_in_the_module_that_is_named() -> None:
    group = get_group(app)
    for name in MODULES:
        command = group.get_command(Context(group), name)
        assert command is not None, name
        assert command.name == name
    assert set(group.commands) == {*MODULES, "doctor"}, "a module registers a command that is not listed"


def test_a_command_loads_what_it_needs_only() -> None:
    script = (
        "import sys; from recipe.critic_r1.cli import app; app(['prepare', '--help'], standalone_mode=False);"
        "print(sorted({'pyarrow', 'openai', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_libraries_find_their_variables_when_a_set_is_prepared(tmp_path: Path) -> None:
    """They must be there before the libraries are loaded: afterwards nobody reads them."""
    script = """
import os, sys
from recipe.critic_r1.cli import app

class Watch:
    def find_spec(self, name, *_):
        if name == "pyarrow":
            print("loaded with", os.environ.get("MIMALLOC_PURGE_DELAY"), os.environ.get("FASTOKENS_BPE_THREADS"))
            assert "fastokens" not in sys.modules

sys.meta_path.insert(0, Watch())
app()
"""
    arguments = ["prepare", "rlhf_v", "--input", "nowhere.parquet", "--output", str(tmp_path)]
    said = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert said.stdout.splitlines() == ["loaded with -1 1"]
    assert "nowhere.parquet" in said.stderr


def test_a_misspelt_command_is_guessed() -> None:
    said = CliRunner().invoke(app, ["prepar"])
    assert said.exit_code == 2
    assert "'prepare'" in said.output
