"""`vllm serve FOLDER`, also where only the CPU build of vLLM is installed.

The server is vLLM's own, with all of its options; judging needs nothing of it but the OpenAI protocol. The CPU build
needs two things more: its command line asks for the version of a distribution that has another name there
(`compat.apply_cpu`), and its defaults are made for a machine that it has to itself (it takes 92 % of the memory and
compiles for minutes). What is set here for a CPU yields to whatever the caller sets.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence

CPU_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--dtype": ("float32",),
    # Compiling costs half a minute and saves nothing on a small model.
    "--enforce-eager": (),
    # The share of the memory that must be free at the start; what is taken is the line below.
    "--gpu-memory-utilization": ("0.05",),
    "--kv-cache-memory-bytes": (str(1 << 30),),
    "--skip-mm-profiling": (),
    "--distributed-executor-backend": ("uni",),
    # A prompt is never split over steps: vLLM cannot rewind a CPU generator, so a seeded request dies then.
    "--no-enable-chunked-prefill": (),
    # Prefixes are shared by whole blocks; the smallest that the CPU kernels take.
    "--block-size": ("32",),
    "--max-num-seqs": ("128",),
}
"""Options of `vllm serve` on a CPU, with their values."""

CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of the server on a CPU."""


def on_cpu() -> bool:
    """Whether the vLLM that is installed is the build for a CPU."""
    return any(True for _ in importlib.metadata.distributions(name="vllm-cpu"))


def arguments(model: str, further: Sequence[str] = (), *, cpu: bool) -> list[str]:
    """The words behind `vllm`.

    Args:
        model: Hugging Face folder or name.
        further: options for `vllm serve` as typed; each goes before ours.
        cpu: whether to add `CPU_OPTIONS`.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in further if word.startswith("--")}
    ours: list[str] = []
    for option, value in CPU_OPTIONS.items() if cpu else ():
        opposite = "--" + option.removeprefix("--no-") if option.startswith("--no-") else "--no-" + option[2:]
        if option not in given and opposite not in given:
            ours += [option, *value]
    return ["serve", model, *ours, *further]


def serve(model: str, further: Sequence[str] = ()) -> None:
    """Serve until stopped. Does not return before.

    Raises:
        SystemExit: vLLM ended, with its status.
    """
    cpu = on_cpu()
    if cpu:
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from recipe.critic_r1 import compat

        compat.apply_cpu()
    from vllm.entrypoints.cli.main import main

    sys.argv = ["vllm", *arguments(model, further, cpu=cpu)]
    main()
