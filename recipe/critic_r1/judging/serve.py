"""`vllm serve FOLDER`, also with the CPU build of vLLM.

The server is vLLM's own, with all of its options. It listens on this machine only by default, and any other address
requires a key. The CPU build needs a patch (its command line asks for the version of a distribution that has another
name, see `compat.apply_cpu`) and other defaults: vLLM's would take 92 % of the memory and compile for minutes. Options
of the caller take precedence.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from recipe.critic_r1.judging.address import Address

CPU_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--dtype": ("float32",),
    # Compiling takes half a minute and saves nothing on a small model.
    "--enforce-eager": (),
    # Share of the memory that must be free at the start; the next option sets what is used.
    "--gpu-memory-utilization": ("0.05",),
    "--kv-cache-memory-bytes": (str(1 << 30),),
    "--skip-mm-profiling": (),
    "--distributed-executor-backend": ("uni",),
    # vLLM cannot rewind a CPU generator, so a seeded request whose prompt is split over steps fails.
    "--no-enable-chunked-prefill": (),
    # Prefixes are cached in blocks; this is the smallest size that the CPU kernels support.
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
    """Whether the installed vLLM is the CPU build."""
    return any(True for _ in importlib.metadata.distributions(name="vllm-cpu"))


LOOPBACK = "127.0.0.1"

_WATCHED = ("--host", "--api-key", "--uds", "--config")
"""Options that decide who can use the model."""


def options(further: Sequence[str]) -> list[tuple[str, str]]:
    """Options of `vllm serve` with their values as vLLM reads them: those of its --config file, then those typed.

    Raises:
        ValueError: the file cannot be read.
    """
    typed: list[tuple[str, str]] = []
    for word, following in zip(further, [*further[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
            # argparse accepts abbreviations, too.
            name = next((long for long in _WATCHED if len(name) > 3 and long.startswith(name)), name)
            typed.append((name, value if equals else following))
    found = []
    for path in (value for name, value in typed if name == "--config"):
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"--config {path} cannot be read: {error}") from error
        pairs = config.items() if isinstance(config, dict) else ()
        found += [(f"--{name}".replace("_", "-"), str(value)) for name, value in pairs]
    return [*found, *typed]


def check_host(further: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        ValueError: --host, typed or in a --config file, names another address, and there is no key.
    """
    given = options(further)
    keys = [value for name, value in given if name == "--api-key"]
    keyed = any(key.strip() for key in (*keys, environment.get("VLLM_API_KEY", "")))
    for host in (value.strip("[]") for name, value in given if name == "--host"):
        # An empty host is every address of the machine.
        here = bool(host) and Address(f"http://[{host}]" if ":" in host else f"http://{host}").loopback
        if not here and not keyed:
            raise ValueError(
                f"--host {host} lets other machines use the model: give a key, VLLM_API_KEY in the environment or"
                " --api-key (which other users of this machine can see)"
            )


def arguments(model: str, further: Sequence[str] = (), *, cpu: bool) -> list[str]:
    """The command-line arguments of `vllm`.

    Args:
        model: Hugging Face folder or name.
        further: options for `vllm serve` as typed, which override ours.
        cpu: whether to add `CPU_OPTIONS`.
    """
    given = {name for name, _ in options(further)}
    ours: list[str] = [] if {"--host", "--uds"} & given else ["--host", LOOPBACK]
    for option, value in CPU_OPTIONS.items() if cpu else ():
        opposite = "--" + option.removeprefix("--no-") if option.startswith("--no-") else "--no-" + option[2:]
        if option not in given and opposite not in given:
            ours += [option, *value]
    return ["serve", model, *ours, *further]


def serve(model: str, further: Sequence[str] = ()) -> None:
    """Serve until stopped.

    Raises:
        SystemExit: vLLM ended, with its status.
        ValueError: it would listen beyond this machine without a key.
    """
    check_host(further, os.environ)
    cpu = on_cpu()
    if cpu:
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from recipe.critic_r1 import compat

        compat.apply_cpu()
    from vllm.entrypoints.cli.main import main

    sys.argv = ["vllm", *arguments(model, further, cpu=cpu)]
    main()
