"""Loads a sibling of a reward file that verl has loaded by its path.

With `reward.custom_reward_function.path=/some/where/reward_fns/preference.py` verl executes that one file, without a
package and without an entry in `sys.modules`; `reward_fns` need not be importable. If the folder were on `sys.path`
instead, Ray would pickle our functions by reference to a package that its workers may not have. So siblings are loaded
as verl loads the file: they are not in `sys.modules`, and Ray pickles them by value.

A file that needs siblings begins with

    if TYPE_CHECKING or __package__:
        from reward_fns.verdict import parse_verdict
    else:
        sibling = run_path(str(Path(__file__).with_name("by_path.py")))["sibling"]
        parse_verdict = sibling("verdict").parse_verdict
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def sibling(name: str, folder: Path = Path(__file__).parent) -> ModuleType:
    """Execute `name`.py of this folder and return the module, without touching `sys.modules`."""
    path = folder / f"{name}.py"
    spec = spec_from_file_location(f"_critic_r1_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}: the reward files must stay together in one folder")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
