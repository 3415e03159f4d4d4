"""Settings, machine and versions of the runs, what differs between them, and what a run lacks."""

from dataclasses import dataclass
from typing import Any

from recipe.critic_r1.redaction import HIDDEN, redact, secret_name
from recipe.critic_r1.report.charts import duration
from recipe.critic_r1.report.records import StageRecord, shortened_name
from recipe.critic_r1.report.run_files import METRICS, Kind, Run

Rows = list[tuple[str, str]]

KINDS: dict[Kind, str] = {"held-out": "", "benchmark": "judge", "best-of-n": "best of N", "policy": "policy evaluation"}


def settings_of(run: Run) -> dict[str, Any]:
    """All settings of a run; with several sets of metrics, the settings of each under its kind."""
    found: dict[str, Any] = dict(run.info.settings) if run.info else {}
    if run.info and run.info.seed is not None:
        found = {"seed": run.info.seed} | found
    for one in run.measured:
        if one.settings:
            alone = len([other for other in run.measured if other.settings]) == 1 and not run.info
            found |= one.settings if alone else {KINDS[one.kind]: one.settings}
    return found


def flat(settings: dict[str, Any], prefix: str = "") -> Rows:
    """A nested mapping as (dotted key, value) rows, without secrets."""
    rows: Rows = []
    for key, value in settings.items():
        name = shortened_name(redact(f"{prefix}{key}"))
        if isinstance(value, list) and any(isinstance(one, dict) for one in value):
            value = {str(place): one for place, one in enumerate(value)}
        if isinstance(value, dict) and value:
            rows += flat(value, f"{name}.")
        elif value and secret_name(str(key)):
            rows.append((name, HIDDEN))
        else:
            rows.append((name, "–" if value is None else shortened_name(redact(str(value)))))
    return rows


def repeats(runs: list[Run]) -> list[Run]:
    """The largest set of training runs that differ only in their seed, one per seed; empty when fewer than two do."""
    groups: dict[tuple[tuple[str, str], ...], dict[int | None, Run]] = {}
    for run in runs:
        if run.info:
            rows = [(key, value) for key, value in flat(settings_of(run)) if key != "seed"]
            groups.setdefault(tuple(rows), {}).setdefault(run.info.seed, run)
    most = max(groups.values(), key=len, default={})
    return list(most.values()) if len(most) > 1 else []


@dataclass
class Setup:
    """One run's set-up: its stages, and tables by caption."""

    label: str
    line: str
    """Name, seed, date and length, if recorded"""
    stages: list[StageRecord]
    seconds: float
    tables: dict[str, Rows]
    is_control: bool


def model_of(settings: dict[str, Any]) -> str:
    """The name of the model in the settings of a result file; empty when there is none."""
    return shortened_name(redact(str(settings.get("model") or "")))


def _line(run: Run, alone: bool) -> str:
    if run.info is None:
        models = [(KINDS[one.kind], model_of(one.settings)) for one in run.measured]
        return " · ".join(f"{kind} of {model}" if model else kind for kind, model in models)
    seconds = sum(stage.seconds or 0 for stage in run.info.stages)
    # The name of a single run is the title.
    parts = ["" if alone else run.info.name, "seed not recorded" if run.info.seed is None else f"seed {run.info.seed}"]
    parts.append(run.info.created)
    if run.steps:
        parts.append(f"{len(run.steps)} training steps")
    if seconds:
        parts.append(f"{duration(seconds)} in total")
    return " · ".join(part for part in parts if part)


def setups(runs: list[Run]) -> list[Setup]:
    """The set-up of every run."""
    found = []
    for run in runs:
        info = run.info
        told = {"Control": info.control or {}, "Machine": info.machine, "Versions": info.versions} if info else {}
        tables = {caption: flat(values) for caption, values in (told | {"Settings": settings_of(run)}).items()}
        stages = info.stages if info else []
        found.append(
            Setup(
                run.label,
                _line(run, len(runs) == 1),
                stages,
                sum(stage.seconds or 0 for stage in stages),
                {caption: rows for caption, rows in tables.items() if rows},
                bool(info and info.control),
            )
        )
    return found


def what_differs(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Settings that differ between runs of the same kind: (key, one value per run)."""
    tables = [dict(flat(settings_of(run))) for run in runs]
    kinds = [(run.info is not None, {one.kind for one in run.measured}) for run in runs]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [table.get(key, "–") for table in tables]
        # Settings that a kind of run does not have are not a difference.
        if any(kinds[i] == kinds[j] and values[i] != values[j] for i in range(len(runs)) for j in range(i)):
            rows.append((key, values))
    return rows


def missing(runs: list[Run], untold: dict[str, list[str]], cut: int) -> list[str]:
    """What the runs lack, in sentences.

    Args:
        untold: run -> training curves without metrics.
        cut: number of shortened texts.
    """
    sentences = []
    for run in runs:
        said = [redact(note) for note in run.notes]
        if run.info:
            said += _missing_of_training(run, untold.get(run.label, []))
        sentences += said if len(runs) == 1 else [f"{run.label}: {sentence}" for sentence in said]
    if cut:
        texts = "1 long text is" if cut == 1 else f"{cut:,} long texts are"
        sentences.append(f"{texts} shown without the middle; the run's files have the full text.")
    return sentences


def _missing_of_training(run: Run, untold: list[str]) -> list[str]:
    sentences = []
    if not run.steps:
        sentences.append(f"{METRICS} is missing or empty: no training curves.")
    elif untold:
        sentences.append(f"{METRICS} lacks the metrics for {'; '.join(untold)}.")
    evaluations = run.of_kind("held-out")
    for name in ("before", "after"):
        found = evaluations.get(name)
        if found is None or not found.evaluation.metrics:
            sentences.append(f"eval/{name}.json is missing: no metrics from {name} training.")
        elif not found.evaluation.curves:
            sentences.append(f"eval/{name}.json has no curves: no best of N from {name} training.")
        if found is None or not found.judgements:
            sentences.append(f"eval/{name}_judgements.jsonl is missing or empty: no judgements from {name} training.")
    return sentences
