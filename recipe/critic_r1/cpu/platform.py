"""verl's device layer on a CPU: ``torch.cpu`` plus gloo, with POSIX shared memory for the weight sync.

verl asks its platform for a replacement of ``torch.cuda``, for the Ray resource that a worker reserves, and for the
collective backend. A "GPU" of this platform is one of Ray's *logical* GPUs (``ray.init(num_gpus=N)``): a slot for one
worker, without hardware.

The memory metrics that verl logs (``perf/max_memory_*``) are the resident size of the worker process, in bytes.
"""

import os
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _resident_bytes(*_: object) -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _peak_resident_bytes(*_: object) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free_and_total_bytes(*_: object) -> tuple[int, int]:
    sizes = {}
    with open("/proc/meminfo") as meminfo:
        for line in meminfo:
            name, rest = line.split(":")
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["MemAvailable"], sizes["MemTotal"]


def _nothing(*_: object, **__: object) -> None:
    return None


class _CPUDevice(types.ModuleType):
    """Replaces ``torch.cuda``: ``torch.cpu`` plus the memory and random-number calls that verl makes."""

    def __init__(self) -> None:
        super().__init__("recipe.critic_r1.cpu.device")
        self.__dict__.update(
            is_available=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: "cpu",
            get_device_name=lambda *_: "CPU",
            set_device=_nothing,
            synchronize=_nothing,
            empty_cache=_nothing,
            ipc_collect=_nothing,
            memory_allocated=_resident_bytes,
            memory_reserved=_resident_bytes,
            max_memory_allocated=_peak_resident_bytes,
            max_memory_reserved=_peak_resident_bytes,
            reset_peak_memory_stats=_nothing,
            reset_accumulated_memory_stats=_nothing,
            mem_get_info=_free_and_total_bytes,
            set_per_process_memory_fraction=_nothing,
            get_rng_state=torch.get_rng_state,
            set_rng_state=torch.set_rng_state,
            manual_seed=torch.manual_seed,
            manual_seed_all=torch.manual_seed,
        )

    def __getattr__(self, name: str) -> Any:  # Stream, stream, current_stream, ...
        return getattr(torch.cpu, name)


_DEVICE = _CPUDevice()


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):  # type: ignore[misc]
    """The ``cpu`` platform; chosen by ``VERL_PLATFORM=cpu`` and never by detection."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> types.ModuleType:
        return _DEVICE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> Any:
        # verl uses it as a device (`x.to(get_device_id())`); an index would mean "accelerator 0".
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    # Ray and verl's resource pool know accelerators by the names GPU and NPU only.
    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def visible_devices_envvar(self) -> str:
        return "CRITIC_R1_CPU_VISIBLE_DEVICES"

    def is_ipc_supported(self) -> bool:
        return False  # the weight sync falls back to POSIX shared memory

    def rollout_env_vars(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("VLLM_CPU_")}

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def cudart(self) -> None:
        return None
