"""Rescore a rollout dump with any reward, and see where two rewards differ.

Before a reward is changed in a running project, one wants to know which responses it would pay differently and why.
The dump is verl's (`trainer.rollout_data_dir`) or our `samples.jsonl`; the reward is named as verl names it, a file or
`pkg://module`, followed by `:function`.
"""

import importlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from data_prep.files import json_lines
from data_prep.terminal import markup_safe

RECORDED = "recorded"
"""Instead of a reward: the score recorded in the dump."""

SAME = 1e-6
"""Scores closer than this are the same: dumps hold scores that went through float32."""

MAX_SHOWN_CHARS = 160
"""Of a response, the end is shown: that is where the verdict is."""


@dataclass(frozen=True)
class ScoreDifference:
    """One response that the two rewards pay differently."""

    line: int
    step: int | None
    ground_truth: str
    response: str
    first: float
    second: float
    first_reason: str
    second_reason: str


@dataclass
class ScoreReport:
    """What `score_file` found."""

    path: Path
    reward: str
    against: str
    rows: int = 0
    compared: int = 0
    first_sum: float = 0.0
    second_sum: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rows by the reason the first reward gave."""
    reason_changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Differing rows by (reason of the first reward, reason of the second)."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Lines that could not be scored, by reason."""
    differing: int = 0
    differences: list[ScoreDifference] = field(default_factory=list)
    """The first of the differing rows, at most as many as asked for."""


def load_reward(spec: str) -> Callable[..., Any]:
    """The function behind `file.py:name` or `pkg://module:name`; the name defaults to `compute_score`.

    Raises:
        ValueError: naming what was not found and the remedy.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or name.startswith("//"):
        place, name = spec, "compute_score"
    try:
        if place.startswith("pkg://"):
            module = importlib.import_module(place.removeprefix("pkg://").replace("/", "."))
        else:
            path = Path(place.removeprefix("file://"))
            found = importlib.util.spec_from_file_location(f"_reward_{path.stem}", path)
            if found is None or found.loader is None:
                raise ImportError(f"{path} is not a Python file")
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
        reward: Callable[..., Any] = getattr(module, name)
        return reward
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(
            f"cannot load the reward {spec!r}: {error}. Give a file and a function, as in "
            "reward_fns/preference.py:compute_score, or a module, as in pkg://reward_fns.preference:compute_score"
        ) from error


def score_file(
    path: str | Path,
    reward: str = "pkg://reward_fns.mixed:compute_score",
    *,
    against: str = RECORDED,
    options: Mapping[str, Any] | None = None,
    against_options: Mapping[str, Any] | None = None,
    data_source: str = "critic/unknown",
    show: int = 20,
) -> ScoreReport:
    """Score every response of a dump by two rewards.

    Args:
        path: a jsonl file: verl's `{input, output, gts, score, step, ...}` or ours
            `{prompt, response, ground_truth, data_source, score, step, ...}`.
        reward: the first reward, see `load_reward`.
        against: the second reward, or `recorded` for the score in the file.
        options, against_options: keyword arguments of the two rewards.
        data_source: for dumps that do not name it (verl's).
        show: most differing rows to keep.

    Raises:
        ValueError: when a reward cannot be loaded, or no line of the file can be scored.
        OSError: when the file cannot be read.
    """
    first = load_reward(reward)
    second = None if against == RECORDED else load_reward(against)
    report = ScoreReport(Path(path), reward, against)
    for line, record in _records(report):
        source = record.get("data_source") or data_source
        text, truth = record["response"], record["ground_truth"]
        score, reason = _result(first(source, text, truth, record.get("extra_info"), **(options or {})))
        report.rows += 1
        report.first_sum += score
        report.reasons[reason] += 1
        if second is not None:
            other, other_reason = _result(
                second(source, text, truth, record.get("extra_info"), **(against_options or {}))
            )
        elif isinstance(record.get("score"), int | float):
            other, other_reason = float(record["score"]), str(record.get("reason", ""))
        else:
            continue
        report.compared += 1
        report.second_sum += other
        if abs(score - other) > SAME:
            report.differing += 1
            report.reason_changes[reason, other_reason] += 1
            if len(report.differences) < show:
                report.differences.append(
                    ScoreDifference(line, record.get("step"), str(truth), text, score, other, reason, other_reason)
                )
    if not report.rows:
        why = ", ".join(f"{count} x {reason}" for reason, count in report.rejected.items()) or "it is empty"
        raise ValueError(
            f"{path}: no line can be scored ({why}). Expected is a jsonl file with response and ground_truth, or "
            "output and gts as verl writes with trainer.rollout_data_dir"
        )
    return report


def _records(report: ScoreReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and record with the keys of our own log; what cannot be scored is counted."""
    if not report.path.exists() or report.path.is_dir():
        raise ValueError(
            f"{report.path}: no such file; name the samples.jsonl of a run, or a file of trainer.rollout_data_dir"
        )
    for line in json_lines(report.path):
        record = line.value
        if line.error is not None:
            report.rejected["not JSON (a line cut off by a killed run?)"] += 1
        elif not isinstance(record, dict):
            report.rejected["not a JSON object"] += 1
        else:
            record.setdefault("response", record.get("output"))
            record.setdefault("ground_truth", record.get("gts"))
            if not isinstance(record["response"], str):
                report.rejected["no response"] += 1
            elif record["ground_truth"] is None:
                report.rejected["no ground_truth (verl writes null where the row has none)"] += 1
            else:
                yield line.number, record


def _result(result: Any) -> tuple[float, str]:
    """Score and reason of what a reward returned, a number or a dict."""
    if isinstance(result, Mapping):
        return float(result["score"]), str(result.get("reason", ""))
    return float(result), ""


def render(report: ScoreReport) -> Group:
    """The report as Rich tables: means, reasons, changes, examples."""
    parts: list[Any] = []
    summary = Table(title=f"{markup_safe(str(report.path))}: {report.rows} responses", title_justify="left")
    for column in ("reward", "rows", "mean score"):
        summary.add_column(column, justify="left" if column == "reward" else "right")
    summary.add_row(markup_safe(report.reward), str(report.rows), f"{report.first_sum / max(1, report.rows):.4f}")
    if report.compared:
        mean = report.second_sum / report.compared
        summary.add_row(markup_safe(report.against), str(report.compared), f"{mean:.4f}")
        summary.add_row("paid differently", str(report.differing), "")
    parts.append(summary)
    reasons = Table(title="By reason", title_justify="left")
    reasons.add_column("reason")
    reasons.add_column("rows", justify="right")
    reasons.add_column("share", justify="right")
    for reason, count in report.reasons.most_common():
        reasons.add_row(markup_safe(reason or "-"), str(count), f"{count / report.rows:.1%}")
    for reason, count in report.rejected.most_common():
        reasons.add_row(f"[red]not scored: {markup_safe(reason)}[/red]", str(count), "")
    parts.append(reasons)
    if report.differing:
        changes = Table(title="Where they differ", title_justify="left")
        for column in ("reason", "the other's reason", "rows"):
            changes.add_column(column, justify="right" if column == "rows" else "left")
        for (first, second), count in report.reason_changes.most_common():
            changes.add_row(markup_safe(first or "-"), markup_safe(second or "-"), str(count))
        examples = Table(title=f"{len(report.differences)} of {report.differing}", title_justify="left")
        for column in ("line", "step", "label", "score", "other", "end of the response"):
            examples.add_column(column)
        for item in report.differences:
            step = "" if item.step is None else str(item.step)
            shown = item.response[-MAX_SHOWN_CHARS:].strip()
            examples.add_row(
                str(item.line), step, markup_safe(item.ground_truth), f"{item.first:.3f}", f"{item.second:.3f}",
                markup_safe(shown),
            )  # fmt: skip
        parts += [changes, examples]
    return Group(*parts)


def print_report(report: ScoreReport, console: Console | None = None) -> None:
    """Print the report; what `critic-r1 score` does."""
    (console or Console()).print(render(report))
