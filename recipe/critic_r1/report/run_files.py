"""The folder of a run, whatever kind of run left it there, read into one record.

Four commands leave folders: `train` or `demo` (`run.json`), `judge` (`judge.json`), `best-of-n` (`best_of_n.json`) and
`eval-policy` (`eval_policy.json`); one folder may be the output of several. What each of them measured becomes a
`Measured`, so that everything after this file deals in figures and judgements and not in commands. Only one of the four
files must be there: a report is most wanted when a run stopped half-way.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipe.critic_r1.report.records import (
    Evaluation,
    Judgement,
    PolicyEvaluation,
    Record,
    ReportError,
    RunInfo,
    Sample,
    Step,
    read_json,
    read_lines,
)

RUN_JSON = "run.json"
JUDGE = "judge.json"
BEST_OF_N = "best_of_n.json"
# The second name is that of the first files of this kind.
POLICY = ("eval_policy.json", "policy_eval.json")
METRICS = "train/metrics.jsonl"
SAMPLES = "train/samples.jsonl"
JUDGEMENTS = "judgements.jsonl"
CANDIDATES = "candidates.jsonl"
# Rollouts on the page: the last of the run. A long run has millions of them, and its last ones say what it became.
LAST_ROLLOUTS = 1000
# The order of columns in every table; evaluations with other names follow in alphabetical order.
STAGE_ORDER = ("before", "after")
# Whole results of a file that are no settings.
_RESULTS = {"metrics", "curves", "bills", "bill", "seconds", "traffic", "reading"}

Kind = Literal["held-out", "benchmark", "best-of-n", "policy"]
"""`held-out`: a training run's own evaluation; the others are named by what they measure."""


class _Candidates(Record):
    problem_id: str


@dataclass
class Measured:
    """One set of figures, and the judgements behind it where there are any."""

    kind: Kind
    name: str
    """`before`, `after`, or empty where the folder holds one of its kind"""
    evaluation: Evaluation
    judgements: list[Judgement] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    items: str = ""
    """Names what was judged or answered: equal where figures may be compared; empty where that is not known"""


@dataclass
class Run:
    """Everything read from one folder."""

    root: Path
    label: str
    """How the page calls it"""
    info: RunInfo | None = None
    """Of a training run"""
    steps: list[Step] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    rollouts: list[Judgement] = field(default_factory=list)
    """The last rollouts of training"""
    notes: list[str] = field(default_factory=list)
    """Plain sentences on what was left out, for the page."""

    def of_kind(self, kind: Kind) -> dict[str, Measured]:
        """What was measured of one kind, by name."""
        return {one.name: one for one in self.measured if one.kind == kind}


def items_of(names: Iterable[str]) -> str:
    """One name for a set of items, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode("utf-8", "surrogatepass")).hexdigest()


def judged_items(judgements: list[Judgement]) -> str:
    """Names what was judged: pairs, orders and labels."""
    return items_of(f"{one.pair_id} {one.order} {one.ground_truth}" for one in judgements) if judgements else ""


def _label(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _evaluation_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """(name -> result, name -> judgements): `NAME.json` and `NAME_judgements.jsonl`, or both in a folder `NAME`."""
    results = {path.parent.name: path for path in sorted(folder.glob("*/*.json"))}
    results |= {path.stem: path for path in sorted(folder.glob("*.json"))}
    judged = {path.parent.name: path for path in sorted(folder.glob(f"*/{JUDGEMENTS}"))}
    suffix = "_judgements"
    judged |= {path.stem.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}.jsonl"))}
    return results, judged


def _ordered(names: set[str]) -> list[str]:
    known = [name for name in STAGE_ORDER if name in names]
    return known + sorted(names - set(known))


def _listed(counts: Any) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) if isinstance(counts, dict) else str(counts)


def _settings(evaluation: Record) -> dict[str, Any]:
    return {name: value for name, value in (evaluation.model_extra or {}).items() if name not in _RESULTS}


def _read_training(run: Run) -> None:
    root = run.root
    if (root / METRICS).is_file():
        # A resumed run writes the steps after its checkpoint again: the last line of a step is the one that counts.
        steps = {step.step: step for step in read_lines(root / METRICS, METRICS, Step, run.notes)}
        run.steps = [steps[number] for number in sorted(steps)]
    results, judged = _evaluation_files(root / "eval")
    for name in _ordered(set(results) | set(judged)):
        evaluation, judgements = Evaluation(), []
        if name in results:
            evaluation = read_json(results[name], _label(root, results[name]), Evaluation)
        if name in judged:
            judgements = list(read_lines(judged[name], _label(root, judged[name]), Judgement, run.notes))
        run.measured.append(Measured("held-out", name, evaluation, judgements, items=judged_items(judgements)))
    if (root / SAMPLES).is_file():
        samples = list(read_lines(root / SAMPLES, SAMPLES, Sample, run.notes, last=LAST_ROLLOUTS))
        run.rollouts = [sample.as_judgement() for sample in samples]


def read_run(run_dir: Path, label: str = "") -> Run:
    """Reads the folder of a run.

    Raises ReportError when it holds none of the four files, or when any file that is there is malformed.
    """
    root = Path(run_dir)
    run = Run(root, label or root.resolve().name)
    if (root / RUN_JSON).is_file():
        run.info = read_json(root / RUN_JSON, RUN_JSON, RunInfo)
        _read_training(run)
    if (root / JUDGE).is_file():
        evaluation = read_json(root / JUDGE, JUDGE, Evaluation)
        judgements: list[Judgement] = []
        if (root / JUDGEMENTS).is_file():
            judgements = list(read_lines(root / JUDGEMENTS, JUDGEMENTS, Judgement, run.notes))
        else:
            run.notes.append(f"{JUDGEMENTS} is missing beside {JUDGE}: no judgements to show.")
        if lost := (evaluation.model_extra or {}).get("records_lost"):
            run.notes.append(
                f"Records of the benchmark that gave no task: {_listed(lost)}; the figures are about the rest."
            )
        run.measured.append(
            Measured("benchmark", "", evaluation, judgements, _settings(evaluation), judged_items(judgements))
        )
    if (root / BEST_OF_N).is_file():
        evaluation = read_json(root / BEST_OF_N, BEST_OF_N, Evaluation)
        items = ""
        if (root / CANDIDATES).is_file():
            items = items_of(c.problem_id for c in read_lines(root / CANDIDATES, CANDIDATES, _Candidates, run.notes))
        run.measured.append(Measured("best-of-n", "", evaluation, [], _settings(evaluation), items))
    if name := next((name for name in POLICY if (root / name).is_file()), ""):
        policy = read_json(root / name, name, PolicyEvaluation)
        run.notes += [f"{task} has no figure: {why}." for task, why in policy.left_out.items()]
        settings = policy.settings | _settings(policy)
        run.measured.append(Measured("policy", "", Evaluation(metrics=policy.metrics), [], settings))
    if run.info is None and not run.measured:
        raise ReportError(
            f"{root / RUN_JSON} is missing, and so are {JUDGE}, {BEST_OF_N} and {POLICY[0]}; give the folder of a run, "
            "one that holds any of them"
        )
    return run


def read_runs(given: Sequence[str]) -> list[Run]:
    """Reads `FOLDER` or `NAME=FOLDER` each; the name, else the end of the path that tells them apart, is its label.

    Raises ReportError as `read_run` does, and when two are given the same name.
    """
    named: list[tuple[str, Path]] = []
    for text in given:
        name, equals, folder = text.partition("=")
        # A folder may have an equals sign in its name.
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
    """The shortest ends of the paths that are all different; the whole paths where two are the same."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return labels
