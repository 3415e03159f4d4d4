"""The command lines of the tools: written here, shown to the user, and for lmms-eval also run.

Each benchmark is a run of the tool for itself. A data set that cannot be had then costs one benchmark and not the
suite, and a suite that was stopped goes on with the one that was under way, its answers so far from the journal.
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

TOOL_SIDE = Path(__file__).parent / "tool_side"

KEY_VARIABLE = "CRITIC_R1_API_KEY"
"""Where tool_side/lmms_model.py looks for the served model's key; a key on a command line would be seen by everyone."""


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
            "base_url": served.base_url,
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
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    found.pop("PYTHONPATH", None)  # ours is not its
    if judge is None:
        return {"OPENAI_API_KEY": "EMPTY", **found}
    # Tasks that post the request themselves take the whole address, those that use a client the base.
    return {
        **found,
        "API_TYPE": "openai",
        "OPENAI_API_KEY": judge.api_key,
        "OPENAI_API_URL": judge.base_url,
        "OPENAI_BASE_URL": judge.base_url,
        "MODEL_VERSION": judge.model,
    }


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


def vlmevalkit(suite: Suite, served: Served, out: Path) -> tuple[dict[str, Any], str, list[str]]:
    """VLMEvalKit's configuration, its command line, and the benchmarks that it does not have.

    Written after its `run.py` and its model class `GPT4V`, and not run by us: it is not on package registries. Its own
    `SPLIT_THINK` takes the thoughts off; the box stays in what its metrics see.
    """
    model: dict[str, Any] = {
        "class": "GPT4V",
        "model": served.model,
        "api_base": f"{served.base_url.rstrip('/')}/chat/completions",
        "temperature": 0,
        "max_tokens": suite.max_tokens,
        "img_detail": "high",
        "timeout": int(served.timeout),
    }
    if suite.suffix:
        model["system_prompt"] = suite.suffix
    data: dict[str, Any] = {}
    for benchmark in suite.benchmarks:
        if isinstance(benchmark.vlmevalkit, str):
            data[benchmark.vlmevalkit] = {}
        elif benchmark.vlmevalkit is not None:
            kind, name = benchmark.vlmevalkit
            data[name] = {"class": kind, "dataset": name}
    absent = [benchmark.task for benchmark in suite.benchmarks if benchmark.vlmevalkit is None]
    path = out / "vlmevalkit.json"
    words = ["python", "run.py", "--config", str(path.resolve()), "--work-dir", str((out / "vlmevalkit").resolve())]
    words += ["--api-nproc", str(served.concurrency), "--reuse"]
    content = {"model": {"critic_r1": model}, "data": data}
    return content, f"SPLIT_THINK=True {shlex.join(words)}", absent


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
