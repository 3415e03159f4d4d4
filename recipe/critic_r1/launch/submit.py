"""A training run as a job of a Ray cluster, through Ray's own Jobs client.

Only the source files of this recipe are sent. Data, models and checkpoints stay where they are, so every path of the
run must be absolute and on a file system that all machines see.
"""

import asyncio
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import tenacity

from recipe.critic_r1.redaction import redact, secret_name

PACKAGES = ("data_prep", "reward_fns", "recipe")

SENT_FILES = (
    "*.py",
    "recipe/critic_r1/config/*.yaml",
    "recipe/critic_r1/eval_policy/installed.json",
    "recipe/critic_r1/eval_policy/suites/*.yaml",
    "recipe/critic_r1/eval_policy/tool_side/*.yaml",
    "recipe/critic_r1/rehearsal/architectures/*.json",
    "recipe/critic_r1/report/templates/*",
    "data_prep/py.typed",
    "reward_fns/py.typed",
    "recipe/critic_r1/py.typed",
)
"""The only files of the packages that are sent."""

LARGEST_FILE = 1_000_000
"""Bytes; source files are far smaller."""

FORWARDED = """
GLOO_SOCKET_IFNAME HF_ENDPOINT HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE
NCCL_ALGO NCCL_BUFFSIZE NCCL_CROSS_NIC NCCL_CUMEM_ENABLE NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_IB_DISABLE
NCCL_IB_GID_INDEX NCCL_IB_HCA NCCL_IB_QPS_PER_CONNECTION NCCL_IB_SL NCCL_IB_TC NCCL_IB_TIMEOUT NCCL_MIN_NCHANNELS
NCCL_NET NCCL_NET_GDR_LEVEL NCCL_NVLS_ENABLE NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_PROTO NCCL_SHM_DISABLE
NCCL_SOCKET_FAMILY NCCL_SOCKET_IFNAME NCCL_TIMEOUT NCCL_TOPO_FILE TORCH_NCCL_ASYNC_ERROR_HANDLING
VERL_FILE_LOGGER_PATH VERL_LOGGING_LEVEL VERL_PLATFORM VERL_USE_EXTERNAL_MODULES
VLLM_CACHE_ROOT VLLM_CONFIGURE_LOGGING VLLM_HOST_IP VLLM_LOGGING_LEVEL VLLM_NO_USAGE_STATS VLLM_PORT
VLLM_USE_MODELSCOPE VLLM_WORKER_MULTIPROC_METHOD
WANDB_ENTITY WANDB_MODE WANDB_PROJECT
"""
"""Variables that are forwarded to the job when they are set. Ray shows a job's environment to everyone who can open its
dashboard, so the list holds no key, and a value that contains credentials is not forwarded."""

PATIENCE, SOON = 120.0, 3.0
"""Seconds to wait for a cluster to become ready, and between two attempts."""

PATH_KEYS = ("critic_r1.run_dir", "data.train_files", "data.val_files")


class SubmitError(Exception):
    """The job cannot be sent; the message says why and what to do."""


@dataclass(frozen=True)
class TrainingJob:
    """A job that was submitted."""

    id: str
    entrypoint: str
    packed_bytes: int
    environment: tuple[str, ...]
    """Names of the variables that were forwarded."""


def client(address: str) -> Any:
    """Ray's Jobs client for the dashboard at ``address`` (``http://HEAD:8265``).

    A cluster may require a token. `ray start` finds it by itself, Ray's client does not, so we look for it here.

    Raises:
        SubmitError: nothing answers there, or the cluster rejects our token.
    """
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    # Ray reads the mode once, when it is imported: set later, it would only apply to child processes.
    if "ray" not in sys.modules and (token or (Path.home() / ".ray" / "auth_token").exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise SubmitError(
            f"{redact(address)} does not accept us ({str(error).strip().splitlines()[0]}). Put the cluster's token "
            "into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmitError(
            f"no Ray Jobs server at {redact(address)} ({redact(str(error)).strip().splitlines()[0]}). The address is "
            "that of the dashboard, http://HEAD:8265; is the port open from here?"
        ) from error


def check(config_name: str, overrides: Sequence[str]) -> None:
    """Compose the configuration here, so that a wrong key fails in seconds instead of after the wait in the queue.

    Raises:
        SubmitError: it does not compose, or a path of the run is relative.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from recipe.critic_r1.train import ConfigurationError, compose_config

    try:
        config = compose_config(config_name, overrides)
        paths = {key: OmegaConf.select(config, key) for key in PATH_KEYS}
    except ConfigurationError as error:
        raise SubmitError(str(error)) from error
    except OmegaConfBaseException as error:
        raise SubmitError(f"{config_name} does not compose: {error}") from error
    for key, value in paths.items():
        for path in [value] if isinstance(value, str) or value is None else list(value):
            if path is None:
                raise SubmitError(f"{key} is not set: name a file that every machine of the cluster sees")
            if not os.path.isabs(path) and "://" not in path:
                raise SubmitError(
                    f"{key}={path} is relative, and a job works in a copy of the code: give the absolute path on the "
                    "shared file system"
                )


def refuse_secrets(overrides: Sequence[str]) -> None:
    """Raise `SubmitError` for an override that holds a secret: Ray's dashboard shows a job's command line."""
    for override in overrides:
        name, _, value = override.partition("=")
        literal = secret_name(name.rpartition(".")[2]) and re.search(r"[A-Za-z]", value) and "${" not in value
        if redact(override) != override or (literal and value not in ("null", "true", "false")):
            raise SubmitError(
                f"{name} holds a secret, and everyone who can open Ray's dashboard sees a job's command line: set a"
                " variable on the cluster's machines, and write ${oc.env:VARIABLE} here"
            )


@contextmanager
def packed() -> Iterator[Path]:
    """A temporary folder with the source files of our packages.

    Only regular files of `SENT_FILES` up to `LARGEST_FILE` are copied: no hidden files, links, keys, weights or data.
    """
    root = Path(__file__).resolve().parents[3]
    with tempfile.TemporaryDirectory(prefix="critic-r1-job-") as folder:
        for package in PACKAGES:
            for source in sources(root, package):
                target = Path(folder) / source.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target, follow_symlinks=False)
        yield Path(folder)


def sources(root: Path, package: str) -> Iterator[Path]:
    """The files of ``root/package`` that are sent."""
    for place, folders, names in os.walk(root / package):
        folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
        for path in (Path(place) / name for name in names if not name.startswith(".")):
            wanted = any(fnmatch(path.relative_to(root).as_posix(), pattern) for pattern in SENT_FILES)
            if wanted and not path.is_symlink() and path.is_file() and path.stat().st_size <= LARGEST_FILE:
                yield path


def size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def environment(extra: Sequence[str], given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for the job: the `FORWARDED` ones that are set here, and ``extra`` (``NAME`` or ``NAME=VALUE``).

    Raises:
        SubmitError: a variable in ``extra`` is not set.
    """
    found = {name: given[name] for name in FORWARDED.split() if name in given and redact(given[name]) == given[name]}
    for item in extra:
        name, equals, value = item.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SubmitError(f"--env {item}: not NAME or NAME=VALUE")
        if not equals and name not in given:
            raise SubmitError(f"--env {name}: it is not set here; write --env {name}=VALUE")
        found[name] = value if equals else given[name]
    return found


def submit(
    jobs: Any,
    config_name: str,
    overrides: Sequence[str],
    *,
    python: str = "python",
    job_id: str | None = None,
    env: Sequence[str] = (),
) -> TrainingJob:
    """Check the run, pack the code, and send it as a job through `client`'s ``jobs``.

    The plug-in is also named in ``VERL_USE_EXTERNAL_MODULES``, so that the job runs the code that was sent, whether or
    not the recipe is installed on the cluster.

    Raises:
        SubmitError: see `check`, `refuse_secrets` and `environment`, or the cluster refuses the job.
    """
    check(config_name, overrides)
    refuse_secrets(overrides)
    variables = environment(env)
    plugin = "recipe.critic_r1.plugin"
    others = [name for name in variables.get("VERL_USE_EXTERNAL_MODULES", "").split(",") if name and name != plugin]
    variables["VERL_USE_EXTERNAL_MODULES"] = ",".join([plugin, *others])
    entrypoint = shlex.join([python, "-m", "recipe.critic_r1.train", "--config-name", config_name, *overrides])
    with packed() as folder:
        try:
            sent = _patiently(
                jobs.submit_job,
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env={"working_dir": str(folder), "env_vars": variables},
                metadata={"critic_r1_config": config_name},
            )
        except (RuntimeError, ConnectionError) as error:
            raise SubmitError(f"the cluster refused the job: {str(error).strip().splitlines()[0]}") from error
        return TrainingJob(sent, entrypoint, size_of(folder), tuple(sorted(variables)))


def _patiently(send: Callable[..., str], **job: Any) -> str:
    """Send a job; for some seconds after its start a cluster answers "try again later"."""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_message(match=r"(?s).*try again later"),
        wait=tenacity.wait_fixed(SOON),
        stop=tenacity.stop_after_delay(PATIENCE),
        reraise=True,
    )
    return str(retry(send, **job))


def follow(jobs: Any, job_id: str, write: Callable[[str], None]) -> str:
    """Pass the job's output to ``write`` until it ends; returns its final status, ``SUCCEEDED`` on success."""

    async def tail() -> None:
        async for text in jobs.tail_job_logs(job_id):
            write(text)

    asyncio.run(tail())
    return str(jobs.get_job_status(job_id).value)
