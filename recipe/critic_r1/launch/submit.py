"""A training run as a job of a Ray cluster, through Ray's own Jobs client.

What is sent is the code of this recipe and nothing else: data, models and checkpoints stay where they are, so every
path of the run must be absolute and on a file system that all machines see.
"""

import asyncio
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tenacity

PACKAGES = ("data_prep", "reward_fns", "recipe")

FORWARDED = (
    "NCCL_",
    "GLOO_",
    "VLLM_",
    "VERL_",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "WANDB_MODE",
    "WANDB_PROJECT",
)
"""Variables (or their beginnings) that go with the job. Keys and tokens do not: Ray shows a job's environment to
everyone who can open its dashboard."""

PATIENCE, SOON = 120.0, 3.0
"""Seconds that a cluster has to become ready, and between two tries."""

PATH_KEYS = ("critic_r1.run_dir", "data.train_files", "data.val_files")


class SubmitError(Exception):
    """The job cannot be sent; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """What was sent."""

    id: str
    entrypoint: str
    packed_bytes: int
    environment: tuple[str, ...]
    """Names of the variables that went with it."""


def client(address: str) -> Any:
    """Ray's Jobs client for the dashboard at ``address`` (``http://HEAD:8265``).

    A cluster may ask for a token. `ray start` turns that on by itself where it finds one, Ray's client does not: here
    a token that is found is sent.

    Raises:
        SubmitError: nobody answers there, or the cluster does not accept our token.
    """
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    # Ray reads its mode once, when it is imported: set later, only its child processes would ask for a token.
    if "ray" not in sys.modules and (token or (Path.home() / ".ray" / "auth_token").exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise SubmitError(
            f"{address} does not accept us ({str(error).strip().splitlines()[0]}). Put the cluster's token into "
            "~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmitError(
            f"no Ray Jobs server at {address} ({str(error).strip().splitlines()[0]}). The address is that of the "
            "dashboard, http://HEAD:8265; is the port open from here?"
        ) from error


def check(config_name: str, overrides: Sequence[str]) -> None:
    """Compose the configuration here, so that a wrong key costs seconds and not a place in the queue.

    Raises:
        SubmitError: it does not compose, or a path of the run is relative.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("recipe.critic_r1.config", version_base=None):
            config = compose(config_name, overrides=list(overrides))
        paths = {key: OmegaConf.select(config, key) for key in PATH_KEYS}
    except (HydraException, OmegaConfBaseException) as error:
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


@contextmanager
def packed() -> Any:
    """A folder with the code of this recipe, as it is imported here; gone afterwards."""
    root = Path(__file__).resolve().parents[3]
    with tempfile.TemporaryDirectory(prefix="critic-r1-job-") as folder:
        for package in PACKAGES:
            shutil.copytree(
                root / package,
                Path(folder) / package,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.parquet", "*.partial"),
            )
        yield Path(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def environment(extra: Sequence[str], given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for the job: the `FORWARDED` ones that are set here, and ``extra`` (``NAME`` or ``NAME=VALUE``).

    Raises:
        SubmitError: a named variable is not set.
    """
    found = {name: value for name, value in given.items() if name.startswith(FORWARDED)}
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
) -> Job:
    """Check the run, pack the code, and send it as a job through `client`'s ``jobs``.

    The plug-in is also named in ``VERL_USE_EXTERNAL_MODULES``, so that the code that was sent is the code that loads,
    whether or not the recipe is installed on the cluster.

    Raises:
        SubmitError: see `check` and `environment`, or the cluster refuses the job.
    """
    check(config_name, overrides)
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
        return Job(sent, entrypoint, size_of(folder), tuple(sorted(variables)))


def _patiently(send: Callable[..., str], **job: Any) -> str:
    """Send a job; a cluster that has only just started says "try again later" for some seconds."""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_message(match=r"(?s).*try again later"),
        wait=tenacity.wait_fixed(SOON),
        stop=tenacity.stop_after_delay(PATIENCE),
        reraise=True,
    )
    return str(retry(send, **job))


def follow(jobs: Any, job_id: str, write: Callable[[str], None]) -> str:
    """Pass the job's output to ``write`` until it ends; returns its last status, ``SUCCEEDED`` when all is well."""

    async def tail() -> None:
        async for text in jobs.tail_job_logs(job_id):
            write(text)

    asyncio.run(tail())
    return str(jobs.get_job_status(job_id).value)
