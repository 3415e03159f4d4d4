"""The training curves: one table of panels with their metrics.

A panel whose metrics the run did not log is listed as missing on the page, unless only some runs have them. Several
runs share the panels, with one line each for the panel's first metric.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipe.critic_r1.report.charts import Chart, ChartLine, line_chart, smoothing_window, stacked_chart
from recipe.critic_r1.report.records import Step
from reward_fns.verdict import Reason

Values = list[float | None]
REASON_PREFIX = "critic_r1/reason/"
# Replacements for metrics that verl's own trainer does not log.
INSTEAD = {"critic_r1/score": "critic/score/mean", "response_length/mean": "critic_r1/response_tokens/mean"}
# Parts of a step in their order (verl's timers).
TIMERS = {
    "timing_s/gen": "generate",
    "timing_s/old_log_prob": "old log-probabilities",
    "timing_s/ref": "reference",
    "timing_s/update_actor": "update",
    "timing_s/update_weights": "weights to rollout",
}
STEP_TIMER = "timing_s/step"
# The most frequent reasons; the others share one colour.
MOST_REASONS = 7


@dataclass(frozen=True)
class Panel:
    key: str
    title: str
    unit: str
    note: str
    metrics: dict[str, str]
    """metric in metrics.jsonl -> its label"""
    options: dict[str, Any]
    change: Callable[[float], float] | None = None
    always: bool = True
    """Whether every training run logs its metrics."""


PANELS = [
    Panel(
        "reward",
        "Reward",
        "mean of a step's rollouts, 0 to 1",
        "By default 0.9 for the correct verdict and 0.1 for the format.",
        {"critic_r1/score": "reward"},
        {"floor": 0},
    ),
    Panel(
        "accuracy",
        "Critic accuracy in training",
        "share of a step's rollouts",
        "On training pairs; the table above is on held-out pairs. Dashed: chance. Responses that a critic judges count "
        "with its score.",
        {"critic_r1/accuracy": "correct verdict", "critic_r1/format_rate": "format followed"},
        {"percent": True, "floor": 0, "ceiling": 1.02, "level": 0.5},
    ),
    Panel(
        "kl",
        "KL to the reference model",
        "nats per token, low-variance estimate",
        "Distance of the model from the start of training.",
        {"actor/kl_loss": "KL"},
        {"floor": 0},
    ),
    Panel(
        "grad",
        "Gradient norm",
        "before clipping",
        "Spikes are steps whose gradient was clipped.",
        {"actor/grad_norm": "gradient norm"},
        {"floor": 0},
    ),
    Panel(
        "loss",
        "Policy loss",
        "clipped objective",
        "Near zero by construction: each group's advantages sum to zero.",
        {"actor/pg_loss": "policy loss"},
        {"level": 0.0},
    ),
    Panel(
        "length",
        "Response length",
        "tokens, mean of a step",
        "Falls when the critic stops thinking; approaches the limit when it rambles.",
        {"response_length/mean": "response"},
        {"floor": 0},
    ),
    Panel(
        "signal",
        "Groups without signal",
        "share of prompts",
        "All rollouts of the prompt got the same reward, so their advantages are zero.",
        {"critic_r1/groups_without_signal": "no signal"},
        {"percent": True, "floor": 0, "ceiling": 1.02},
    ),
    Panel(
        "bias",
        "Position bias",
        "share of verdicts 1 minus share of labels 1",
        "0: none. With balanced labels, +0.5: always the first, -0.5: always the second.",
        {"critic_r1/position_bias": "position bias"},
        {"level": 0.0},
    ),
    Panel(
        "agreement",
        "Rollout vs. actor probabilities",
        "1 − Pearson correlation, log scale",
        "Both score the same tokens. Dashed: 1e-4, above which training stops.",
        {"training/rollout_actor_probs_pearson_corr": "1 − Pearson"},
        {"log": True, "level": 1e-4, "smooth": False},
        # 1 - r = 0 is not on a log axis: it is drawn at the resolution of a float32.
        change=lambda value: max(1.0 - value, 6e-8),
    ),
    Panel(
        "chain",
        "Unbroken chains",
        "share of a step's rollouts",
        "Thoughts with all parts of their chain, and scores that agree with the verdict.",
        {"critic_r1/chain_rate": "unbroken"},
        {"percent": True, "floor": 0, "ceiling": 1.02},
        always=False,
    ),
    Panel(
        "judge_scores",
        "Judged groups",
        "shares",
        "Spread: largest minus smallest score of a group; at 0 nothing is learned. Unjudged groups have no advantage.",
        {"critic_r1/judge/spread": "spread of the scores", "critic_r1/judge/unjudged": "unjudged groups"},
        {"percent": True, "floor": 0, "ceiling": 1.02},
        always=False,
    ),
    Panel(
        "judge_habits",
        "Habits of the critic that rewards",
        "shares of its judgements",
        "Flipped: the verdict changes with the order. Dashed: neither the first place nor the longer response is "
        "preferred.",
        {
            "critic_r1/judge/flipped": "flipped",
            "critic_r1/judge/unreadable": "unreadable",
            "critic_r1/judge/first_place": "for the first place",
            "critic_r1/judge/longer_wins": "longer response wins",
        },
        {"percent": True, "floor": 0, "ceiling": 1.02, "level": 0.5},
        always=False,
    ),
    Panel(
        "probe",
        "The model as a critic",
        "share of the held-out probes",
        "Agreement: the same verdict as before the first step. When it falls too low, the run stops.",
        {"critic_r1/probe/agreement": "agreement with the start", "critic_r1/probe/accuracy": "accuracy"},
        {"percent": True, "floor": 0, "ceiling": 1.02, "smooth": False, "connected": True},
        always=False,
    ),
]


def _number(value: Any) -> float | None:
    """The value, if a chart can show it; a log may contain NaN, infinity or an integer too large for a float."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e30 else None


def series(steps: list[Step], metric: str) -> Values | None:
    """The metric at every step, None at steps without it; None when no step has it."""
    values = [_number(step.data.get(metric)) for step in steps]
    return values if any(value is not None for value in values) else None


def _drawn(panel: Panel, metric: str, steps: list[Step]) -> Values | None:
    values = series(steps, metric) or (series(steps, INSTEAD[metric]) if metric in INSTEAD else None)
    if values is None or panel.change is None:
        return values
    return [None if value is None else panel.change(value) for value in values]


def _reasons(steps: list[Step], xs: list[int]) -> Chart | None:
    """Shares of responses by format error, without the much larger `ok`."""
    names = {name for step in steps for name in step.data if name.startswith(REASON_PREFIX)}
    found = {name: values for name in names if (values := series(steps, name))}
    found.pop(REASON_PREFIX + Reason.OK, None)
    found = {name: values for name, values in found.items() if any(values)}
    if not found:
        return None
    by_size = sorted(found, key=lambda name: (-sum(value or 0 for value in found[name]), name))
    lines = [ChartLine(name.removeprefix(REASON_PREFIX), found[name]) for name in by_size[:MOST_REASONS]]
    if rest := by_size[MOST_REASONS:]:
        lines.append(ChartLine("other", [sum(found[name][i] or 0 for name in rest) for i in range(len(xs))]))
    unit, note = "share of a step's rollouts", "By the reason of the verdict parser."
    return stacked_chart("reasons", "Format errors", xs, lines, unit=unit, note=note, percent=True)


def _timers(steps: list[Step], xs: list[int]) -> Chart | None:
    totals = series(steps, STEP_TIMER)
    lines = [ChartLine(label, values) for timer, label in TIMERS.items() if (values := series(steps, timer))]
    if not lines:
        return None
    if totals:
        rest = [
            max(0.0, total - sum(line.values[i] or 0 for line in lines)) if total is not None else None
            for i, total in enumerate(totals)
        ]
        lines.append(ChartLine("other", rest))
    note = "Other: data, reward, checkpoints."
    return stacked_chart("timers", "Step time by part", xs, lines, unit="seconds", note=note)


def training_curves(steps: list[Step]) -> tuple[list[Chart], list[str]]:
    """Charts of a training run, the wide ones last, and the titles of those without metrics."""
    xs = [step.step for step in steps]
    charts: list[Chart] = []
    missing: list[str] = []
    for panel in PANELS:
        drawn = [(label, _drawn(panel, metric, steps)) for metric, label in panel.metrics.items()]
        if lines := [ChartLine(label, values) for label, values in drawn if values]:
            charts.append(_line_chart(panel, xs, lines))
        elif panel.always:
            missing.append(f"{panel.title} ({', '.join(panel.metrics)})")
    if chart := _reasons(steps, xs):
        charts.append(chart)
    elif series(steps, REASON_PREFIX + Reason.OK) is None:
        missing.append(f"Format errors ({REASON_PREFIX}...)")
    if chart := _timers(steps, xs):
        charts.append(chart)
    else:
        missing.append("Step time by part (timing_s/...)")
    return charts, missing


def _line_chart(panel: Panel, xs: list[int], lines: list[ChartLine], shown: str = "") -> Chart:
    return line_chart(panel.key, panel.title, xs, lines, unit=shown + panel.unit, note=panel.note, **panel.options)


def _per_step(runs: dict[str, list[Step]], values: dict[str, Values]) -> tuple[list[int], list[ChartLine]]:
    """All steps of all runs, and a line per run, with gaps at steps that the run does not have."""
    xs = sorted({step.step for steps in runs.values() for step in steps})
    lines = []
    for label, found in values.items():
        at = dict(zip((step.step for step in runs[label]), found, strict=True))
        lines.append(ChartLine(label, [at.get(x) for x in xs]))
    return xs, lines


def compared_curves(runs: dict[str, list[Step]]) -> list[Chart]:
    """The first metric of each panel, and the step time, with one line per run."""
    charts = []
    timer = Panel("step", "Step time", "seconds", "", {STEP_TIMER: "step"}, {"floor": 0})
    for panel in [*PANELS, timer]:
        metric = next(iter(panel.metrics))
        values = {label: found for label, steps in runs.items() if (found := _drawn(panel, metric, steps))}
        if values:
            shown = f"{panel.metrics[metric]}, " if len(panel.metrics) > 1 else ""
            charts.append(_line_chart(panel, *_per_step(runs, values), shown))
    return charts


def smoothing_note(steps: int) -> str:
    """Explains the thin and the bold line."""
    window = smoothing_window(steps)
    return "" if window == 1 else f"Thin: each step. Bold: mean of the last {window} steps."
