"""Which curves a run has: each panel, the metrics it draws and what they mean, in one table.

A panel whose metrics the run never logged is not drawn empty: its title is returned as missing, and the page says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipe.critic_r1.report.charts import Chart, Line, line_chart, smoothing_window, stacked_chart
from recipe.critic_r1.report.run_files import CurvePoint, Evaluation, Step
from reward_fns.verdict import Reason

Values = list[float | None]
REASON_PREFIX = "critic_r1/reason/"
# What stands in for a metric in the log of verl's own trainer, which lacks ours.
INSTEAD = {"critic_r1/score": "critic/score/mean", "response_length/mean": "critic_r1/response_tokens/mean"}
# Parts of a step in the order they happen (verl's timers).
TIMERS = {
    "timing_s/gen": "generate",
    "timing_s/old_log_prob": "old log-probabilities",
    "timing_s/ref": "reference",
    "timing_s/update_actor": "update",
    "timing_s/update_weights": "weights to rollout",
}
STEP_TIMER = "timing_s/step"
# Reasons beyond the commonest few share one colour: more than eight layers cannot be told apart.
MOST_REASONS = 7
# Selectors of best-of-N in the order of the legend; others follow.
SELECTORS = {
    "knock_out": "knock-out by its own critic",
    "one_sample": "one sample",
    "majority": "majority",
    "oracle": "oracle",
}


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


PANELS = [
    Panel(
        "reward",
        "Reward",
        "mean of a step's rollouts, 0 to 1",
        "0.9 for the right verdict and 0.1 for the form, where the settings say nothing else.",
        {"critic_r1/score": "reward"},
        {"floor": 0},
    ),
    Panel(
        "accuracy",
        "Critic accuracy in training",
        "share of a step's rollouts",
        "Dashed: guessing. These are training pairs; the table above has held-out ones.",
        {"critic_r1/accuracy": "right verdict", "critic_r1/format_rate": "form holds"},
        {"percent": True, "floor": 0, "ceiling": 1.02, "level": 0.5},
    ),
    Panel(
        "kl",
        "KL to the reference model",
        "nats per token, low-variance estimate",
        "How far the model has moved from where training began.",
        {"actor/kl_loss": "KL"},
        {"floor": 0},
    ),
    Panel(
        "grad",
        "Gradient norm",
        "before clipping",
        "A spike is a step that clipping had to tame.",
        {"actor/grad_norm": "gradient norm"},
        {"floor": 0},
    ),
    Panel(
        "loss",
        "Policy loss",
        "clipped objective",
        "Near zero by nature: each group's advantages sum to zero.",
        {"actor/pg_loss": "policy loss"},
        {"level": 0.0},
    ),
    Panel(
        "length",
        "Response length",
        "tokens, mean of a step",
        "Critics that stop thinking get short; critics that ramble run into the limit.",
        {"response_length/mean": "response"},
        {"floor": 0},
    ),
    Panel(
        "signal",
        "Groups without a signal",
        "share of prompts",
        "All rollouts of the prompt got the same reward, so its advantage is zero and it teaches nothing.",
        {"critic_r1/groups_without_signal": "no signal"},
        {"percent": True, "floor": 0, "ceiling": 1.02},
    ),
    Panel(
        "bias",
        "Position bias",
        "share that says 1, less the share where 1 is right",
        "0 is none; with balanced labels +0.5 is always the first place, -0.5 always the second.",
        {"critic_r1/position_bias": "position bias"},
        {"level": 0.0},
    ),
    Panel(
        "agreement",
        "Rollout against actor",
        "1 − Pearson correlation, log scale",
        "Both compute the probability of the same tokens. Dashed: 1e-4, above which a run is stopped.",
        {"training/rollout_actor_probs_pearson_corr": "1 − Pearson"},
        {"log": True, "level": 1e-4, "smooth": False},
        # A correlation of exactly 1 has no place on a log axis: print it at the resolution of a float32.
        change=lambda value: max(1.0 - value, 6e-8),
    ),
]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def series(steps: list[Step], metric: str) -> Values | None:
    """The metric at every step, None where a step lacks it; None in all when no step has it."""
    values = [_number(step.data.get(metric)) for step in steps]
    return values if any(value is not None for value in values) else None


def _series_of(steps: list[Step], metric: str) -> Values | None:
    return series(steps, metric) or (series(steps, INSTEAD[metric]) if metric in INSTEAD else None)


def _reasons(steps: list[Step], xs: list[int]) -> Chart | None:
    """Shares of responses by what is wrong with them; the sound ones (`ok`) would only dwarf these."""
    names = {name for step in steps for name in step.data if name.startswith(REASON_PREFIX)}
    found = {name: values for name in names if (values := series(steps, name))}
    found.pop(REASON_PREFIX + Reason.OK, None)
    found = {name: values for name, values in found.items() if any(values)}
    if not found:
        return None
    by_size = sorted(found, key=lambda name: (-sum(value or 0 for value in found[name]), name))
    lines = [Line(name.removeprefix(REASON_PREFIX), found[name]) for name in by_size[:MOST_REASONS]]
    if rest := by_size[MOST_REASONS:]:
        lines.append(Line("other", [sum(found[name][i] or 0 for name in rest) for i in range(len(xs))]))
    return stacked_chart(
        "reasons",
        "Responses with a fault of form",
        xs,
        lines,
        unit="share of a step's rollouts",
        note="By the verdict parser's reason; a response read cleanly is in none.",
        percent=True,
    )


def _timers(steps: list[Step], xs: list[int]) -> Chart | None:
    whole = series(steps, STEP_TIMER)
    lines = [Line(label, values) for timer, label in TIMERS.items() if (values := series(steps, timer))]
    if not lines:
        return None
    if whole:
        rest = [
            max(0.0, total - sum(line.values[i] or 0 for line in lines)) if total is not None else None
            for i, total in enumerate(whole)
        ]
        lines.append(Line("the rest", rest))
    return stacked_chart(
        "timers",
        "Where a step's time goes",
        xs,
        lines,
        unit="seconds",
        note="The rest: data, reward, checkpoints.",
    )


def training_curves(steps: list[Step]) -> tuple[list[Chart], list[str]]:
    """Charts of a training run, the wide ones last, and the titles of those it lacks the metrics for."""
    xs = [step.step for step in steps]
    charts: list[Chart] = []
    missing: list[str] = []
    for panel in PANELS:
        lines = []
        for metric, label in panel.metrics.items():
            if values := _series_of(steps, metric):
                change = panel.change
                lines.append(Line(label, [v if v is None or change is None else change(v) for v in values]))
        if lines:
            charts.append(
                line_chart(panel.key, panel.title, xs, lines, unit=panel.unit, note=panel.note, **panel.options)
            )
        else:
            missing.append(f"{panel.title} ({', '.join(panel.metrics)})")
    if chart := _reasons(steps, xs):
        charts.append(chart)
    elif series(steps, REASON_PREFIX + Reason.OK) is None:
        missing.append(f"Responses with a fault of form ({REASON_PREFIX}...)")
    if chart := _timers(steps, xs):
        charts.append(chart)
    else:
        missing.append("Where a step's time goes (timing_s/...)")
    return charts, missing


def smoothing_note(steps: list[Step]) -> str:
    """What the thin and the bold line are."""
    window = smoothing_window(len(steps))
    return "" if window == 1 else f"Thin: each step. Bold: mean of the last {window} steps."


def _pools(evaluations: dict[str, Evaluation]) -> dict[tuple[str, str], dict[str, list[CurvePoint]]]:
    """(pool, evaluation) -> selector -> points, so that before and after of one pool stand side by side."""
    pools: dict[tuple[str, str], dict[str, list[CurvePoint]]] = {}
    for name, evaluation in evaluations.items():
        for key, points in evaluation.curves.items():
            pool, _, selector = key.rpartition("/")
            pools.setdefault((pool, name), {})[selector] = points
    order = list(evaluations)
    return dict(sorted(pools.items(), key=lambda item: (item[0][0], order.index(item[0][1]))))


def best_of_n_charts(evaluations: dict[str, Evaluation]) -> list[Chart]:
    """One chart a pool and evaluation, all on one y axis so that before and after can be compared by eye."""
    pools = _pools(evaluations)
    ends = [
        value
        for curve in pools.values()
        for points in curve.values()
        for point in points
        for value in (point.low, point.value, point.high)
        if value is not None
    ]
    if not ends:
        return []
    pad = 0.05 * (max(ends) - min(ends)) or 0.05
    charts = []
    for index, ((pool, name), curve) in enumerate(pools.items()):
        ns = sorted({point.n_candidates for points in curve.values() for point in points})
        lines = []
        for selector in [key for key in SELECTORS if key in curve] + sorted(set(curve) - set(SELECTORS)):
            at = {point.n_candidates: point for point in curve[selector]}
            columns = [[getattr(at.get(n), part, None) for n in ns] for part in ("value", "low", "high")]
            lines.append(Line(SELECTORS.get(selector, selector), *columns))
        charts.append(
            line_chart(
                f"bestof{index}",
                "Best of N" + (f", {name} training" if name in ("before", "after") else ""),
                ns,
                lines,
                unit="share of right answers",
                note=("" if name in ("before", "after") else f"{name}. ")
                + ("The candidates are another policy's. " if pool.endswith("_other") else "")
                + "Bands: 95 % intervals.",
                percent=True,
                floor=max(0.0, min(ends) - pad),
                ceiling=min(1.02, max(ends) + pad),
                smooth=False,
                doubling=True,
                wide=True,
                x_name="candidates",
            )
        )
    return charts
