"""The paper in miniature, from nothing to a report: stages in order, each in a process of its own, each resumable.

Finished stages are recorded in ``run.json``. A killed run resumes with the stage it was in, and training resumes from
its last checkpoint. The output of a stage is in ``logs/STAGE.log``; the console shows the current stage, its progress
and its time.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from rich.console import Console

from data_prep.files import FolderInUseError, folder_lock, write_json
from recipe.critic_r1 import provenance
from recipe.critic_r1.demo import VariantName, WorldName
from recipe.critic_r1.demo.console import StageLine, parse_progress, stage_line
from recipe.critic_r1.launch import processes
from recipe.critic_r1.training.run_log import METRICS, read_lines

RUN_FILE = "run.json"

WRITTEN = ("checkpoints", "data", "eval", "logs", "model", "train", "report.html", RUN_FILE)
"""Everything that a demo writes into its folder; the record last, so that an interrupted removal can be repeated."""

REPORTED = (
    "trainer.total_training_steps",
    "data.train_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.rollout.top_p",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "algorithm.adv_estimator",
    "critic_r1.image_path",
    "reward.custom_reward_function.path",
)
"""Training settings that the report shows."""


class StageFailed(RuntimeError):
    """A stage failed; the message says which, why, and how to resume."""


@dataclass(frozen=True)
class DemoSettings:
    """The options of a demo run."""

    seed: int = 0

    flip_labels: float = 0.0
    """Share of training pairs whose label is flipped: 0.5 leaves nothing to learn, the control."""

    world: WorldName = "digits"
    """Images and questions."""

    variant: VariantName | None = None
    """Variant of the critic task: its data, its form in the warm start, and its reward; None: the paper's own."""

    overrides: tuple[str, ...] = ()
    """Hydra overrides for the training stage."""

    coherence_gate: float | None = None
    """Minimum coherence of the warm start; None: the default of `demo.warm_start`."""

    def __post_init__(self) -> None:
        if self.variant not in (None, *get_args(VariantName)) or self.world not in get_args(WorldName):
            raise ValueError(f"the demo has no variant {self.variant!r} or no world {self.world!r}")
        if self.world == "easy_vqa" and self.variant in ("counterfactual", "nway"):
            raise StageFailed(f"--variant {self.variant} needs several wrong answers; easy_vqa has yes and no")
        if self.flip_labels and self.variant in ("counterfactual", "nway"):
            raise StageFailed(f"--flip-labels flips labels 1 and 2; --variant {self.variant} has others")

    @classmethod
    def of_run(cls, folder: Path) -> "DemoSettings":
        """The options of the run in ``folder``.

        Raises:
            StageFailed: its record is damaged, or of a version with other options.
        """
        asked = _asked(folder)
        if other := sorted(set(asked) - {option.name for option in fields(cls)}):
            raise StageFailed(
                f"{folder / RUN_FILE} is a run of another version of critic-r1, with other options ({', '.join(other)})"
                ": start again with --fresh, or choose another --out"
            )
        try:
            return cls(**(asked | {"overrides": tuple(asked["overrides"])}))
        except (ValueError, TypeError) as error:
            raise _no_record(folder, error) from error


def _asked(folder: Path) -> dict[str, Any]:
    """The options in the record of a run. Raises StageFailed when it is not one."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        asked, _ = dict(record["asked"]), [(stage["name"], stage["status"]) for stage in record["stages"]]
        return asked
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_record(folder, error) from error


def _no_record(folder: Path, error: Exception) -> StageFailed:
    return StageFailed(
        f"{folder / RUN_FILE} is not the record of a demo run ({type(error).__name__}: {error}): choose another --out"
    )


@dataclass
class Stage:
    """One stage: the command, and how to tell its progress beyond what it prints."""

    name: str
    title: str
    command: list[str]
    watch: Callable[[StageLine], None] = field(default=lambda line: None)


class DemoRun:
    """A demo run in a folder."""

    def __init__(self, folder: Path, settings: DemoSettings, console: Console) -> None:
        self.folder, self.settings, self.console = folder.absolute(), settings, console
        self._record: dict[str, Any] = {}
        self._log_before_training: int | None = None

    # -- the record in run.json

    def _open_record(self) -> None:
        path = self.folder / RUN_FILE
        asked = asdict(self.settings) | {"overrides": list(self.settings.overrides)}
        if path.exists():
            found = asdict(DemoSettings.of_run(self.folder))
            self._record = json.loads(path.read_text(encoding="utf-8"))
            differs = sorted(key for key, value in asdict(self.settings).items() if found[key] != value)
            if differs:
                raise StageFailed(
                    f"{path} is a run with other settings ({', '.join(differs)}): "
                    "resume it with the same ones, or choose another folder with --out."
                )
            return
        told: list[str] = [self.settings.world] if self.settings.world != "digits" else []
        told += [self.settings.variant] if self.settings.variant else []
        told += ["control: labels flipped"] if self.settings.flip_labels else []
        self._record = {
            "name": f"demo ({', '.join(told)})" if told else "demo",
            "seed": self.settings.seed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "asked": asked,
            "settings": asked,
            "machine": provenance.machine(),
            "versions": provenance.versions(),
            "stages": [],
            "control": {"flip_labels": self.settings.flip_labels} if self.settings.flip_labels else None,
        }
        self._save_record()

    def _save_record(self) -> None:
        write_json(self.folder / RUN_FILE, self._record)

    def _finish(self, stage: str, status: str, seconds: float, peak: int) -> None:
        """Record a stage; the time of an interrupted one is added to that of its next run."""
        before = [s for s in self._record["stages"] if s["name"] == stage]
        self._record["stages"] = [s for s in self._record["stages"] if s["name"] != stage]
        self._record["stages"].append(
            {
                "name": stage,
                "status": status,
                "seconds": round(seconds + sum(s["seconds"] for s in before), 1),
                "peak_memory_gb": round(max([peak / 1e9, *(s["peak_memory_gb"] for s in before)]), 2),
            }
        )
        self._save_record()

    def _is_done(self, stage: str) -> bool:
        return any(s["name"] == stage and s["status"] == "done" for s in self._record["stages"])

    # -- the stages

    def stages(self) -> list[Stage]:
        """All stages, in order."""
        folder, seed, python = self.folder, str(self.settings.seed), sys.executable
        critic, policy = folder / "data" / "critic", folder / "data" / "policy"
        warm, trained = folder / "model" / "warm", folder / "model" / "trained"
        limits = self._evaluation_limits()

        def evaluation(name: str, model: Path) -> list[str]:
            out = folder / "eval" / name / "eval.json"
            command = [python, "-m", "recipe.critic_r1.demo.evaluate", "--model", str(model), "--out", str(out)]
            return [*command, "--data", str(critic), "--data", str(policy), "--seed", seed, "--tag", name, *limits]

        prepare = [python, "-m", "recipe.critic_r1.demo.stages", str(folder), "--seed", seed]
        prepare += ["--flip-labels", str(self.settings.flip_labels), "--world", self.settings.world]
        if self.settings.variant is not None:
            prepare += ["--variant", self.settings.variant]
        if self.settings.coherence_gate is not None:
            prepare += ["--coherence-gate", str(self.settings.coherence_gate)]
        train = [python, "-m", "recipe.critic_r1.train", "--config-name", "demo", *self.train_overrides()]
        export = [python, "-m", "recipe.critic_r1.cli", "export", str(folder), "--out", str(trained)]
        report = [str(Path(python).with_name("critic-r1")), "report", str(folder)]
        return [
            Stage("prepare", "Model, warm start, critic tasks", prepare),
            Stage("evaluate-before", "Evaluation before training", evaluation("before", warm)),
            Stage("train", "GRPO on critic tasks", train, watch=self._watch_training),
            Stage("export", "Export of the last checkpoint", export),
            Stage("evaluate-after", "Evaluation after training", evaluation("after", trained)),
            Stage("report", "Report", report),
        ]

    def train_overrides(self) -> list[str]:
        """Hydra overrides that tie ``config/demo.yaml`` to this run's folder."""
        critic = self.folder / "data" / "critic"
        return [
            f"critic_r1.run_dir={self.folder}",
            f"actor_rollout_ref.model.path={self.folder / 'model' / 'warm'}",
            f"data.train_files={critic / 'train-00000.parquet'}",
            f"data.val_files={critic / 'test-00000.parquet'}",
            f"data.seed={self.settings.seed}",
            f"actor_rollout_ref.rollout.seed={self.settings.seed}",
            *self._variant_overrides(),
            *self.settings.overrides,
        ]

    @cached_property
    def _extra_tokens(self) -> tuple[int, int]:
        if (self.settings.world, self.settings.variant) == ("digits", None):
            return 0, 0
        from recipe.critic_r1.demo.model import extra_tokens  # takes seconds
        from recipe.critic_r1.demo.phrases import VARIANTS
        from recipe.critic_r1.demo.worlds import WORLDS

        try:
            return extra_tokens(WORLDS[self.settings.world], VARIANTS[self.settings.variant])
        except ImportError as error:
            raise StageFailed(str(error)) from error

    def _variant_overrides(self) -> list[str]:
        """The variant's configuration, and room for longer texts than the limits of ``config/demo.yaml`` are for."""
        prompt, response = self._extra_tokens
        config = _demo_config()
        longer = {
            "data.max_prompt_length": prompt,
            "data.max_response_length": response,
            "actor_rollout_ref.rollout.max_model_len": prompt + response,
        }
        limits = [f"{key}={OmegaConf.select(config, key) + more}" for key, more in longer.items() if more]
        return [f"+variant={self.settings.variant}", *limits] if self.settings.variant else limits

    def _evaluation_limits(self) -> list[str]:
        if not self._extra_tokens[1]:
            return []
        from recipe.critic_r1.demo.evaluate import MAX_TOKENS

        return ["--max-tokens", str(MAX_TOKENS + self._extra_tokens[1])]

    def _watch_training(self, line: StageLine) -> None:
        path = self.folder / "train" / METRICS
        total = self._training_steps()
        written = path.stat().st_mtime_ns if path.exists() else 0
        if self._log_before_training is None:
            self._log_before_training = written
        # Until this process has written, the log is that of a run that was stopped, and may be cut back.
        steps = list(read_lines(path)) if written != self._log_before_training else []
        if not steps:
            line.update(0, total, "starting Ray, FSDP2 and vLLM")
            return
        recent = [step["data"] for step in steps[-5:]]
        accuracy = sum(data["critic_r1/accuracy"] for data in recent) / len(recent)
        seconds = recent[-1]["timing_s/step"]
        line.update(len(steps), total, f"critic accuracy {accuracy:.2f} · {seconds:.0f} s a step")

    def _training_steps(self) -> int:
        steps = _demo_config().trainer.total_training_steps
        for override in self.settings.overrides:
            if override.startswith("trainer.total_training_steps="):
                steps = int(override.split("=", 1)[1])
        return int(steps)

    def _trained_with(self) -> dict[str, Any]:
        """The settings of the training stage that matter to its result, as it resolved them."""
        config = OmegaConf.load(self.folder / "train" / "config.yaml")
        return {key: OmegaConf.select(config, key) for key in REPORTED}

    # -- running them

    def run(self) -> Path:
        """Run the stages that are not done yet; returns the report's path.

        Raises:
            StageFailed: a stage failed, another demo writes into the folder, or it holds a run with other settings.
        """
        try:
            with folder_lock(self.folder, "critic-r1 demo"):
                self._open_record()
                for stage in self.stages():
                    if self._is_done(stage.name):
                        self.console.print(f"[dim]  done before   {stage.title}[/dim]")
                        continue
                    self._run_stage(stage)
        except FolderInUseError as error:
            raise StageFailed(str(error)) from error
        return self.folder / "report.html"

    def _run_stage(self, stage: Stage) -> None:
        log, memory = self.folder / "logs" / f"{stage.name}.log", processes.PeakMemory()
        with stage_line(stage.title, self.console) as line:

            def show(text: str) -> None:
                found = parse_progress(text)
                if found:
                    line.update(*found)
                elif stage.name.startswith("evaluate") and text.strip().endswith(" s)"):
                    line.update(note=text.strip())

            try:
                status = processes.follow(
                    stage.command,
                    log,
                    on_line=show,
                    on_tick=lambda: stage.watch(line),
                    environment=_quiet(),
                    memory=memory,
                )
            except BaseException:
                self._finish(stage.name, "interrupted", line.seconds, memory.peak)
                raise
            seconds = line.seconds
        if stage.name == "train" and status == 0:
            self._record["settings"] = self._record["asked"] | self._trained_with()
        self._finish(stage.name, "done" if status == 0 else "failed", seconds, memory.peak)
        if status != 0:
            raise StageFailed(
                f"{stage.title} failed (exit status {status}) after {seconds:.0f} s.\n"
                f"{_last_words(log)}\nComplete log: {log}\n"
                f"To resume: {resume_command(self.folder)}"
            )
        self.console.print(f"  {_clock(seconds):>7}   {stage.title}", highlight=False)


def _demo_config() -> Any:
    return OmegaConf.load(Path(__file__).parent.parent / "config" / "demo.yaml")


def _quiet() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _last_words(log: Path, lines: int = 12) -> str:
    """The end of a log, without progress marks: where Python prints what went wrong."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in text if line.strip() and parse_progress(line) is None]
    ours = [i for i, line in enumerate(kept) if line.startswith("critic-r1: ")]
    if ours:
        return "\n".join(kept[ours[-1] : ours[-1] + lines]).removeprefix("critic-r1: ")
    named = [line for line in kept if "Error" in line and "Warning" not in line]
    return "\n".join(named[-3:] if named else kept[-lines:])


def resume_command(folder: Path) -> str:
    """The command that resumes the run in ``folder``, as this process was called."""
    return f"{sys.argv[0]} demo --resume --out {folder}"


def start_over(folder: Path) -> None:
    """Remove what an earlier demo wrote into the folder, and nothing else; refuses a folder that is not of a demo."""
    if not (folder / RUN_FILE).exists():
        raise StageFailed(f"{folder} exists and is not a run of the demo: choose another folder with --out")
    _asked(folder)
    try:
        with folder_lock(folder, "critic-r1 demo --fresh"):
            for path in (folder / name for name in WRITTEN):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
    except FolderInUseError as error:
        raise StageFailed(str(error)) from error


def results(folder: Path) -> Sequence[tuple[str, dict[str, Any], dict[str, Any]]]:
    """``(metric, before, after)`` for every metric of both evaluations; an estimate is {value, low, high, n}."""
    both = [
        json.loads((folder / "eval" / name / "eval.json").read_text(encoding="utf-8")) for name in ("before", "after")
    ]
    before, after = (evaluation["metrics"] for evaluation in both)
    return [(name, before[name], after[name]) for name in before if name in after]
