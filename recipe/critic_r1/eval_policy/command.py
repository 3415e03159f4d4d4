"""The command lines of lmms-eval: written here, shown to the user, and run.

Each benchmark is a run of the tool of its own. A data set that is not available then costs one benchmark and not the
suite, and a suite that was stopped resumes with the benchmark that was running, its answers read from the journal.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipe.critic_r1.eval_policy.suites import ROWS_TASK, Benchmark, Suite
from recipe.critic_r1.judging.address import KEY_VARIABLE, Address
from recipe.critic_r1.judging.generation import GenerationRequest, Message, Sampling, TextPart
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from recipe.critic_r1.redaction import redact

TOOL_SIDE = Path(__file__).parent / "tool_side"

URL_VARIABLE = "CRITIC_R1_BASE_URL"
"""Where tool_side/lmms_model.py finds the address, as it finds the key in KEY_VARIABLE: other users of the machine can
see a command line, and a password does not belong in settings.json."""


CHANGES_VARIABLE = "CRITIC_R1_CHANGES"
"""Where tool_side/lmms_model.py finds what `ask_once` found."""


@dataclass(frozen=True)
class Served:
    """The model that is measured, and how it is asked.

    concurrency: most requests in flight. timeout: seconds for one attempt. attempts: how often one request is tried.
    prefilled: the chat template already writes `<think>`.
    """

    model: str
    base_url: str
    api_key: str = "EMPTY"
    concurrency: int = 64
    timeout: float = 600.0
    attempts: int = 5
    prefilled: bool = False


@dataclass(frozen=True)
class Judge:
    """The model that metrics with `judge: true` ask: any OpenAI-compatible server."""

    model: str
    base_url: str
    api_key: str = "EMPTY"


@dataclass(frozen=True)
class Places:
    """Where the files of one benchmark are: the model's settings, raw answers, what the tool wrote, its log."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def journal(self) -> Path:
        return self.folder / "answers.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "lmms-eval"

    @property
    def log(self) -> Path:
        return self.folder / "lmms-eval.log"


def settings(suite: Suite, served: Served, places: Places) -> dict[str, Any]:
    """What tool_side/lmms_model.py reads; paths are absolute, keys are not in it."""
    return {
        "model_args": {
            "model": served.model,
            "base_url": redact(served.base_url),
            "timeout": served.timeout,
            "num_cpus": served.concurrency,
            "max_retries": served.attempts,
        },
        "suffix": suite.suffix,
        "prefilled": served.prefilled,
        "journal": str(places.journal.resolve()),
    }


def lmms_eval(
    python: Path, suite: Suite, benchmark: Benchmark, places: Places, *, limit: int | None = None, include: str = ""
) -> list[str]:
    """The command for one benchmark.

    Args:
        python: interpreter of the tool's environment.
        limit: first rows only; for trying things out.
        include: folder with tasks of one's own.

    Raises:
        ValueError: the folder's path has a comma.
    """
    if "," in str(places.settings.resolve()):
        raise ValueError(f"{places.folder} has a comma in its path, at which lmms-eval splits: take another --out")
    command = [str(python), str(TOOL_SIDE / "lmms_model.py"), "--model", "critic_r1"]
    command += ["--model_args", f"settings={places.settings.resolve()}", "--tasks", benchmark.task]
    command += ["--gen_kwargs", f"max_new_tokens={suite.max_tokens},temperature=0"]
    # The answers come without thoughts already.
    command += ["--reasoning_tags", "none", "--log_samples", "--output_path", str(places.output.resolve())]
    command += ["--batch_size", "1", "--timezone", "UTC"]
    if limit is not None:
        command += ["--limit", str(limit)]
    return command + (["--include_path", include] if include else [])


def tool_environment(served: Served, judge: Judge | None, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment of the tool. Some tasks read HF_HOME and OPENAI_API_KEY when they are imported, set or not."""
    found = {
        "HF_HOME": str(Path.home() / ".cache" / "huggingface"),
        **given,
        KEY_VARIABLE: served.api_key,
        "CRITIC_R1_ROOT": str(TOOL_SIDE.parents[3]),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in ("PYTHONPATH", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        found.pop(name, None)  # not meant for the tool
    if served.base_url:
        found[URL_VARIABLE] = served.base_url
        if (address := Address(served.base_url)).here:
            # A proxy does not reach this machine.
            around = [given.get("NO_PROXY") or given.get("no_proxy"), "127.0.0.1", "localhost", "::1", address.host]
            found["NO_PROXY"] = found["no_proxy"] = ",".join(filter(None, around))
    if judge is None:
        return {**found, "OPENAI_API_KEY": "EMPTY"}
    # Tasks that post the request themselves take the whole address, those that use a client the base.
    return {
        **found,
        "API_TYPE": "openai",
        "OPENAI_API_KEY": judge.api_key,
        "OPENAI_API_URL": judge.base_url,
        "OPENAI_BASE_URL": judge.base_url,
        "MODEL_VERSION": judge.model,
    }


def ask_once(served: Served) -> list[str]:
    """Ask the model one short question, before the tool asks it thousands and each several times.

    Returns:
        The fields of a request that the server does not take.

    Raises:
        ServerRefusedError: the server does not answer; the message says why, and what to do.
    """
    request = GenerationRequest((Message("user", (TextPart("Say yes."),)),), Sampling(max_tokens=16))
    with OpenAIGenerator(
        served.model, served.base_url, api_key=served.api_key, timeout=served.timeout, concurrency=1
    ) as generator:
        (found,) = generator.generate([request])
        if found.error is not None and not found.final:
            raise ServerRefusedError(f"{generator.address.shown} does not answer ({found.error}): run this again")
        return sorted(generator.changes)


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run the tool with its output in `log`; its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as lines:
        lines.write(f"{shlex.join(command)}\n")
        lines.flush()
        return subprocess.run(command, stdout=lines, stderr=lines, env=dict(environment), cwd=log.parent).returncode


def redraw(
    python: Path, benchmark: Benchmark, samples: Path, environment: Mapping[str, str], *, include: str, seed: int
) -> dict[str, float] | None:
    """The interval that the tool's own aggregation gives over draws of the questions; None when it cannot be asked."""
    command = [str(python), str(TOOL_SIDE / "lmms_interval.py"), benchmark.task, benchmark.metric, str(samples)]
    command += ["--seed", str(seed), *(["--include", include] if include else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), cwd=samples.parent)
    if done.returncode:
        return None
    found: dict[str, float] = json.loads(done.stdout)
    return found


def write_rows_task(files: Sequence[Path], folder: Path) -> Path:
    """Write the local task over these Parquet files; the folder for `include`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = TOOL_SIDE / "rows_task"
    shutil.copy(source / "policy_rows.py", folder / "policy_rows.py")
    text = (source / f"{ROWS_TASK}.yaml").read_text(encoding="utf-8")
    named = yaml.safe_dump([str(file.resolve()) for file in files], default_flow_style=True, width=10**6).strip()
    (folder / f"{ROWS_TASK}.yaml").write_text(text.replace("test: []", f"test: {named}"), encoding="utf-8")
    return folder
