"""Reading the folder of a run of any kind.

Folders are written by `train` or `demo` (`run.json`), `judge` (`judge.json`), `best-of-n` (`best_of_n.json`) and
`eval-policy` (`eval_policy.json`); several commands may share a folder. Each set of metrics becomes a `Measured`, so
that the other modules do not depend on the command. One usable file of the four is enough, since a run may have stopped
half-way.

A folder may come from anyone: links out of it and paths in its files are not followed.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipe.critic_r1.judging.metrics import OPPOSITE
from recipe.critic_r1.report.judged_groups import GroupCard, judged_groups
from recipe.critic_r1.report.records import (
    JudgementLine,
    Name,
    PolicyResultFile,
    Record,
    ReportError,
    ResultFile,
    RolloutLine,
    RunInfo,
    Step,
    read_json,
    read_lines,
)

RUN_JSON = "run.json"
JUDGE = "judge.json"
BEST_OF_N = "best_of_n.json"
# The second name is an older one.
POLICY = ("eval_policy.json", "policy_eval.json")
METRICS = "train/metrics.jsonl"
SAMPLES = "train/samples.jsonl"
JUDGEMENTS = "judgements.jsonl"
CANDIDATES = "candidates.jsonl"
# Rollouts on the page, from the end of the run, which may have millions.
LAST_ROLLOUTS = 1000
# The first columns in every table; evaluations with other names follow alphabetically.
STAGE_ORDER = ("before", "after")
# Parts of a result file that are not settings.
_RESULTS = {"metrics", "curves", "bills", "bill", "seconds", "traffic", "reading"}

Kind = Literal["held-out", "benchmark", "best-of-n", "policy"]
"""`held-out` is a training run's own evaluation."""


class _Candidates(Record):
    problem_id: Name


@dataclass
class Measured:
    """A set of metrics, and the judgements that they were computed from, if any."""

    kind: Kind
    name: str
    """`before`, `after`, or empty when the folder has only one of its kind"""
    evaluation: ResultFile
    judgements: list[JudgementLine] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    items: str = ""
    """Hash of what was judged or answered: metrics may be compared when it is equal; empty when not known"""


@dataclass
class Run:
    """Everything read from one folder."""

    root: Path
    label: str
    """Its name on the page"""
    info: RunInfo | None = None
    """Only of a training run"""
    steps: list[Step] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    rollouts: list[JudgementLine] = field(default_factory=list)
    """The last rollouts of training"""
    groups: list[GroupCard] = field(default_factory=list)
    """The last groups of rollouts that a critic compared"""
    notes: list[str] = field(default_factory=list)
    """Sentences for the page on what was left out"""

    def of_kind(self, kind: Kind) -> dict[str, Measured]:
        """Sets of metrics of one kind, by name."""
        return {one.name: one for one in self.measured if one.kind == kind}

    def holds(self, path: Path) -> bool:
        """Whether a path, with links resolved, is in the run's folder."""
        return path.resolve().is_relative_to(self.root.resolve())

    def file(self, name: str | Path) -> Path | None:
        """A regular file of the run; None, with a note, when it is a link to outside the folder."""
        path = self.root / name
        if not path.is_file():
            return None
        if not self.holds(path):
            self.notes.append(f"{self.name_of(path)} is a link to outside the run's folder and is not followed.")
            return None
        return path

    def name_of(self, path: Path) -> str:
        """The path relative to the run."""
        return path.relative_to(self.root).as_posix()


def items_of(names: Iterable[str]) -> str:
    """A hash of a set of items."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode("utf-8", "surrogatepass")).hexdigest()


def judged_items(judgements: list[JudgementLine]) -> str:
    """A hash of what was judged: pairs, orders and labels; empty without judgements."""
    return items_of(f"{one.pair_id} {one.order} {one.ground_truth}" for one in judgements) if judgements else ""


def _evaluation_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """(name -> result, name -> judgements): `NAME.json` and `NAME_judgements.jsonl`, or both in a folder `NAME`."""
    results = {path.parent.name: path for path in sorted(folder.glob("*/*.json"))}
    results |= {path.stem: path for path in sorted(folder.glob("*.json"))}
    judged = {path.parent.name: path for path in sorted(folder.glob(f"*/{JUDGEMENTS}"))}
    suffix = "_judgements"
    judged |= {path.stem.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}.jsonl"))}
    return results, judged


def _listed(counts: Any) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) if isinstance(counts, dict) else str(counts)


def _settings(evaluation: Record) -> dict[str, Any]:
    return {name: value for name, value in (evaluation.model_extra or {}).items() if name not in _RESULTS}


def _read_judgements(run: Run, path: Path) -> list[JudgementLine]:
    label = run.name_of(path)
    judgements = read_lines(path, label, JudgementLine, run.notes)
    strange = [one for one in judgements if one.ground_truth.strip().lower() in OPPOSITE and _is_strange(one.pred)]
    if strange:
        verdicts = "verdict is" if len(strange) == 1 else "verdicts are"
        run.notes.append(
            f"{label}: {len(strange):,} {verdicts} not 1, 2 or tie and counted as unparsed; "
            f"the first is {strange[0].pred!r}, of pair {strange[0].pair_id}."
        )
    return judgements


def _is_strange(pred: str) -> bool:
    return bool(pred.strip()) and pred.strip().lower() not in OPPOSITE


def _read_training(run: Run) -> None:
    if path := run.file(METRICS):
        # A resumed run writes the steps after its checkpoint again: the last line of a step counts.
        steps = {step.step: step for step in read_lines(path, METRICS, Step, run.notes)}
        run.steps = [steps[number] for number in sorted(steps)]
    results, judged = _evaluation_files(run.root / "eval")
    names = set(results) | set(judged)
    for name in [stage for stage in STAGE_ORDER if stage in names] + sorted(names - set(STAGE_ORDER)):
        evaluation, judgements = ResultFile(), []
        if name in results and (path := run.file(run.name_of(results[name]))):
            evaluation = read_json(path, run.name_of(path), ResultFile, run.notes) or evaluation
        if name in judged and (path := run.file(run.name_of(judged[name]))):
            judgements = _read_judgements(run, path)
        run.measured.append(Measured("held-out", name, evaluation, judgements, items=judged_items(judgements)))
    if path := run.file(SAMPLES):
        samples = read_lines(path, SAMPLES, RolloutLine, run.notes, last=LAST_ROLLOUTS)
        run.rollouts = [sample.as_judgement() for sample in samples]
        run.groups = judged_groups(samples, run=run.label)


def _read_judge(run: Run, evaluation: ResultFile) -> None:
    judgements: list[JudgementLine] = []
    if path := run.file(JUDGEMENTS):
        judgements = _read_judgements(run, path)
    else:
        run.notes.append(f"{JUDGEMENTS} is missing next to {JUDGE}: no judgements to show.")
    if lost := (evaluation.model_extra or {}).get("records_lost"):
        run.notes.append(f"Benchmark records without a task: {_listed(lost)}; the metrics cover the rest.")
    run.measured.append(
        Measured("benchmark", "", evaluation, judgements, _settings(evaluation), judged_items(judgements))
    )


def read_run(run_dir: Path, label: str = "") -> Run:
    """Read the folder of a run.

    Raises:
        ReportError: it has none of the four files, or none that can be used.
    """
    root = Path(run_dir)
    run = Run(root, label or root.resolve().name)
    if path := run.file(RUN_JSON):
        run.info = read_json(path, RUN_JSON, RunInfo, run.notes)
        if run.info:
            _read_training(run)
    if (path := run.file(JUDGE)) and (evaluation := read_json(path, JUDGE, ResultFile, run.notes)):
        _read_judge(run, evaluation)
    if (path := run.file(BEST_OF_N)) and (evaluation := read_json(path, BEST_OF_N, ResultFile, run.notes)):
        items = ""
        if path := run.file(CANDIDATES):
            items = items_of(line.problem_id for line in read_lines(path, CANDIDATES, _Candidates, run.notes))
        run.measured.append(Measured("best-of-n", "", evaluation, [], _settings(evaluation), items))
    if (path := next(filter(None, map(run.file, POLICY)), None)) and (
        policy := read_json(path, path.name, PolicyResultFile, run.notes)
    ):
        run.notes += [f"{task} has no metric: {why}." for task, why in policy.left_out.items()]
        settings = policy.settings | _settings(policy)
        run.measured.append(Measured("policy", "", ResultFile(metrics=policy.metrics), [], settings))
    if run.info is None and not run.measured:
        raise ReportError(
            " ".join(run.notes)
            or f"{root} holds none of {RUN_JSON}, {JUDGE}, {BEST_OF_N} and {POLICY[0]}: give the folder of a run."
        )
    return run


def read_runs(given: Sequence[str]) -> list[Run]:
    """Read runs given as `FOLDER` or `NAME=FOLDER`; without a name the label is the end of the path, made unique.

    Raises:
        ReportError: see `read_run`; or two runs have the same name.
    """
    named: list[tuple[str, Path]] = []
    for text in given:
        name, equals, folder = text.partition("=")
        # A folder's name may contain an equals sign.
        named.append((name, Path(folder)) if equals and not Path(text).is_dir() else ("", Path(text)))
    labels = _labels([path.resolve() for _, path in named])
    labels = [name or label for (name, _), label in zip(named, labels, strict=True)]
    for label in labels:
        if labels.count(label) > 1:
            raise ReportError(f"two runs are called {label!r}; give each folder once, or a name: NAME=FOLDER")
    runs = []
    for (_, path), label in zip(named, labels, strict=True):
        try:
            runs.append(read_run(path, label))
        except ReportError as error:
            raise ReportError(f"{label}: {error}" if len(named) > 1 else str(error)) from error
    return runs


def _labels(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that are all different; the full paths when two are the same."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return labels
