"""What a GPU run needs on the machine it starts on: Python, the driver, CUDA, flash-attn.

Without these a run fails minutes after its start, in a worker, with an ImportError or a CUDA error. Nothing is imported
to find out: versions come from the installed files, GPUs and driver from nvidia-smi.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.ray_cluster import address_of, reward_model_gpus

PYTHONS = ((3, 11), (3, 12))
"""Python versions that requirements/gpu.txt is resolved for."""

DRIVERS = {12: 525, 13: 580}
"""The oldest NVIDIA driver for each major version of CUDA (CUDA's release notes)."""

INSTALL = "Set the machine up with `make gpu`; docs/cluster.md, section 2."
NO_FLASH_ATTN = (
    f"{INSTALL} Without it, train on padded batches, which takes more memory and time: "
    "actor_rollout_ref.model.use_remove_padding=false +actor_rollout_ref.model.override_config.attn_implementation=sdpa"
)


@dataclass(frozen=True)
class Gpus:
    """What nvidia-smi reports."""

    driver: int
    """Major version."""
    names: tuple[str, ...]


def gpus() -> Gpus | None:
    """The GPUs of this machine; None when there is no working nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        rows = [line.split(",", 1) for line in done.stdout.splitlines() if line.strip()]
        return Gpus(int(rows[0][0].split(".")[0]), tuple(name.strip() for _, name in rows))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, such as ``13.0``; None for a build without CUDA."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    source = Path(found.origin).with_name("version.py")
    match = re.search(r"^cuda\b.*= *['\"]([\d.]+)['\"]", source.read_text() if source.exists() else "", re.MULTILINE)
    return match[1] if match else None


def has_flash_attn() -> bool:
    """Whether flash-attn is installed."""
    return importlib.util.find_spec("flash_attn") is not None


def python_version() -> Finding:
    """The pinned requirements exist for this Python."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if tuple(sys.version_info[:2]) in PYTHONS:
        return Finding("Python", "pass", here)
    wanted = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    return Finding("Python", "fail", f"{here}; the pinned set is for {wanted}", f"Use Python {wanted}. {INSTALL}")


def driver(found: Gpus, cuda: str | None) -> Finding:
    """The driver is new enough for the CUDA that torch was built for."""
    listed = f"{len(found.names)} x {found.names[0]}, driver {found.driver}"
    if cuda is None:
        return Finding("CUDA", "fail", f"{listed}, but the installed torch is a build without CUDA", INSTALL)
    oldest = DRIVERS.get(int(cuda.split(".")[0]), 0)
    if found.driver < oldest:
        remedy = f"Update the driver to {oldest} or newer."
        return Finding("CUDA", "fail", f"{listed}; CUDA {cuda}, which torch was built for, needs {oldest}", remedy)
    return Finding("CUDA", "pass", f"{listed}, CUDA {cuda}")


def machine(config: DictConfig) -> Iterator[Finding]:
    """Python, and the GPUs and driver of the machine where a run without a Ray address trains."""
    yield python_version()
    if address_of(config) is not None:
        return
    wanted = config.trainer.n_gpus_per_node + reward_model_gpus(config)
    if config.trainer.device == "cpu":
        if (slots := OmegaConf.select(config, "ray_kwargs.ray_init.num_gpus") or 0) < wanted:
            detail = f"training and reward model ask for {wanted} workers, and Ray is started with {slots}"
            yield Finding("GPUs", "fail", detail, f"ray_kwargs.ray_init.num_gpus={wanted}")
        return
    found = gpus()
    if found is None:
        yield Finding(
            "CUDA",
            "fail",
            "no NVIDIA GPU is visible here (nvidia-smi does not answer)",
            "Start the run on a GPU machine, or give the Ray address of a cluster that has them (RAY_ADDRESS).",
        )
        return
    yield driver(found, torch_cuda())
    if len(found.names) < wanted:
        yield Finding(
            "GPUs",
            "fail",
            f"training and reward model ask for {wanted}, but this machine has {len(found.names)}",
            "Take a smaller trainer.n_gpus_per_node or reward.reward_model.n_gpus_per_node, or another cluster=...",
        )


def attention_of(config: DictConfig) -> str:
    """The attention that verl loads the training model with."""
    given = OmegaConf.select(config, "actor_rollout_ref.model.override_config.attn_implementation")
    return str(given or "flash_attention_2")


def flash_attn(config: DictConfig) -> Iterator[Finding]:
    """flash-attn is installed where the configuration asks for it."""
    if config.trainer.device == "cpu" or not attention_of(config).startswith("flash_attention"):
        return
    if has_flash_attn():
        yield Finding("flash-attn", "pass", "installed")
    else:
        detail = "not installed; transformers refuses to build the model in each worker without it"
        yield Finding("flash-attn", "fail", detail, NO_FLASH_ATTN)
