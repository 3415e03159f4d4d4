"""How the runs were made: settings, machine and versions, what differs between runs, and what a run lacks."""

from dataclasses import dataclass

from recipe.critic_r1.report.records import Stage
from recipe.critic_r1.report.run_files import METRICS, Run
from recipe.critic_r1.report.run_groups import KINDS, flat, settings_of
from recipe.critic_r1.report.tables import duration

Rows = list[tuple[str, str]]


@dataclass
class Setup:
    """One run's set-up: its stages, and tables by caption."""

    label: str
    line: str
    """Name, seed, date and length, as far as they are recorded"""
    stages: list[Stage]
    seconds: float
    tables: dict[str, Rows]
    is_control: bool


def _line(run: Run, alone: bool) -> str:
    if run.info is None:
        return " · ".join(
            KINDS[one.kind] + (f" of {one.settings['model']}" if one.settings.get("model") else "")
            for one in run.measured
        )
    seconds = sum(stage.seconds or 0 for stage in run.info.stages)
    # Alone, its name is the title.
    parts = ["" if alone else run.info.name, "seed not recorded" if run.info.seed is None else f"seed {run.info.seed}"]
    parts.append(run.info.created)
    if run.steps:
        parts.append(f"{len(run.steps)} training steps")
    if seconds:
        parts.append(f"{duration(seconds)} in all")
    return " · ".join(part for part in parts if part)


def setups(runs: list[Run]) -> list[Setup]:
    """The set-up of every run."""
    found = []
    for run in runs:
        info = run.info
        tables = {"Settings": flat(settings_of(run))}
        if info:
            tables = {
                "Control": flat(info.control or {}),
                "Machine": flat(info.machine),
                "Versions": flat(info.versions),
            } | tables
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
    """Settings that differ between runs of one kind: (key, one value a run)."""
    tables = [dict(flat(settings_of(run))) for run in runs]
    kinds = [(run.info is not None, {one.kind for one in run.measured}) for run in runs]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [table.get(key, "–") for table in tables]
        # That a judge has no learning rate says nothing.
        if any(kinds[i] == kinds[j] and values[i] != values[j] for i in range(len(runs)) for j in range(i)):
            rows.append((key, values))
    return rows


def missing(runs: list[Run], untold: dict[str, list[str]], cut: int) -> list[str]:
    """What whole runs have and these lack, in plain sentences.

    untold: run -> training curves without their metrics. cut: number of texts that were shortened.
    """
    sentences = []
    for run in runs:
        said = list(run.notes)
        if run.info:
            said += _missing_of_training(run, untold.get(run.label, []))
        sentences += said if len(runs) == 1 else [f"{run.label}: {sentence}" for sentence in said]
    if cut:
        sentences.append(f"{cut:,} long texts lost their middle on this page; the runs' files hold them whole.")
    return sentences


def _missing_of_training(run: Run, untold: list[str]) -> list[str]:
    sentences = []
    if not run.steps:
        sentences.append(f"{METRICS} is missing or empty: no training curves.")
    elif untold:
        sentences.append(f"{METRICS} does not hold: {'; '.join(untold)}.")
    evaluations = run.of_kind("held-out")
    for name in ("before", "after"):
        found = evaluations.get(name)
        if found is None or not found.evaluation.metrics:
            sentences.append(f"eval/{name}.json is missing: no figures from {name} training.")
        elif not found.evaluation.curves:
            sentences.append(f"eval/{name}.json has no curves: no best of N from {name} training.")
        if found is None or not found.judgements:
            sentences.append(f"eval/{name}_judgements.jsonl is missing or empty: no judgements from {name} training.")
    return sentences
