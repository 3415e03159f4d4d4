"""How a reward file finds its siblings when verl loads it by its path.

`reward.custom_reward_function.path=/some/where/reward_fns/preference.py` makes verl execute that one file, without a
package around it and without an entry in `sys.modules`; `reward_fns` need not be importable at all. Adding the folder
to `sys.path` would be shorter, but then Ray would pickle our functions by reference to a package that its workers do
not have. So the sibling is executed the way verl does it: not entered in `sys.modules`, hence pickled by value.

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
