"""`vllm serve FOLDER`, also where only the CPU build of vLLM is installed.

The server is vLLM's own, with all of its options. Two defaults differ: it listens on this machine only, and on any
other address it wants a key. The CPU build needs a patch (its command line asks for the version of a distribution that
has another name there, see `compat.apply_cpu`) and settings: its defaults take 92 % of the memory and compile for
minutes. Whatever the caller sets takes precedence.
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


LOOPBACK = "127.0.0.1"

_WATCHED = ("--host", "--api-key", "--uds", "--config")
"""Options that decide who can ask the model."""


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
            # argparse takes abbreviations, too.
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
                f"--host {host} lets other machines ask the model: give a key, VLLM_API_KEY in the environment or"
                " --api-key (which other users of this machine can see)"
            )


def arguments(model: str, further: Sequence[str] = (), *, cpu: bool) -> list[str]:
    """The words after `vllm`.

    Args:
        model: Hugging Face folder or name.
        further: options for `vllm serve` as typed; each takes precedence over ours.
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
