"""Charts as inline SVG that follows the page's light or dark colours.

Matplotlib draws them with placeholder colours, which are then replaced by CSS variables. Text stays text
(`svg.fonttype: none`), so it uses the page's font and can be searched. Legends and titles are left to the page, where
they wrap on a narrow screen and are escaped. For reading exact values each chart has a `readout`: the position of every
x value in the image and the line to print for it.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Placeholder colours that nothing else uses -> the page's CSS variables.
_INK, _GRID = "#0a0b01", "#0a0b02"
_SERIES = [f"#0a0c{index:02x}" for index in range(1, 9)]
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--line)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES, start=1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of selectors and reasons come from files, and may contain a `$`
    "font.size": 11,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "axes.labelsize": 10.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
}
# Inches at 72 units each: view boxes of 360 x 194 and 446 x 216. The page scales them to the column; the text of wide
# charts must be readable on a phone.
_SIZE, _WIDE, _UNITS = (5.0, 2.7), (6.2, 3.0), 72


@dataclass
class ChartLine:
    """One series: `values` has one entry per x value; None or NaN where nothing was measured."""

    label: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


@dataclass
class Chart:
    title: str
    unit: str
    note: str
    svg: str
    wide: bool = False
    legend: list[tuple[int, str]] = field(default_factory=list)
    """(number of the series colour from 1, label)"""
    readout: dict[str, object] = field(default_factory=dict)


def number(value: float | None, percent: bool = False) -> str:
    """A value as the page prints it: `61.2 %`, `0.0123`, `1.2e-05`; `-` when there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.1f} %"
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as the page prints them: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _floats(values: Sequence[float | None] | None) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values or []], dtype=float)


def rolling_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each position, NaN left out; of fewer at the start."""
    return np.array(
        [
            np.nan if np.isnan(part).all() else np.nanmean(part)
            for part in (values[max(0, index + 1 - window) : index + 1] for index in range(len(values)))
        ]
    )


def smoothing_window(count: int) -> int:
    """Steps that the bold line averages over: a tenth of the run; 1 (no averaging) below ten steps."""
    return max(1, round(count / 10)) if count >= 10 else 1


def _inline(figure: Figure, key: str, title: str) -> str:
    """The figure as an <svg> element with its own ids, the page's colours and no fixed size."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head = re.search(r'viewBox="[^"]+"', svg)
    body = svg[svg.index(">") + 1 :]
    # The title is ours, never a file's, so it needs no escaping.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{head[0] if head else ""} role="img" aria-label="{title}">{body}'
    )


def _axes(key: str, wide: bool) -> tuple[Figure, Axes]:
    mpl.rcParams["svg.hashsalt"] = key
    figure = Figure(figsize=_WIDE if wide else _SIZE, dpi=_UNITS, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _readout(figure: Figure, axes: Axes, xs: np.ndarray, lines: list[str]) -> dict[str, object]:
    """The position of each x in the view box, the top and foot of the plot, and the text to show."""
    figure.draw_without_rendering()
    height = figure.bbox.height
    foot, top = (height - axes.transAxes.transform((0, y))[1] for y in (0, 1))
    places = axes.transData.transform([(x, axes.get_ylim()[0]) for x in xs])[:, 0]
    return {"top": round(top, 1), "foot": round(foot, 1), "x": [round(x, 1) for x in places], "text": lines}


def _finish(axes: Axes, x_name: str, floor: float | None, ceiling: float | None, percent: bool, log: bool) -> None:
    axes.set_xlabel(x_name)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
    else:
        # Values beyond floor or ceiling widen the axis.
        low, high = axes.get_ylim()
        bottom, top = axes.dataLim.y0, axes.dataLim.y1
        axes.set_ylim(low if floor is None else min(floor, bottom), high if ceiling is None else max(ceiling, top))
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.margins(x=0.02)


def line_chart(
    key: str,
    title: str,
    xs: Sequence[int],
    lines: list[ChartLine],
    *,
    unit: str = "",
    note: str = "",
    floor: float | None = None,
    ceiling: float | None = None,
    percent: bool = False,
    log: bool = False,
    level: float | None = None,
    smooth: bool = True,
    doubling: bool = False,
    connected: bool = False,
    wide: bool = False,
    x_name: str = "step",
) -> Chart:
    """Lines over whole-number x values.

    smooth: a thin line for the values, a bold one for their rolling mean (`smoothing_window`).
    level: a dashed reference line. doubling: x on a log-2 axis with a tick at each value, for best-of-N.
    connected: without smoothing, join the values on both sides of a gap, for what is measured every few steps.
    percent: values are shares in [0, 1]. A line with `low` and `high` gets a band.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(key, wide)
        window = smoothing_window(len(xs)) if smooth else 1
        x = np.array(xs, dtype=float)
        for line, colour in zip(lines, _SERIES, strict=False):
            values = _floats(line.values)
            shown = np.isfinite(values) if connected else np.full(len(x), True)
            if window > 1:
                axes.plot(x, values, color=colour, linewidth=0.8, alpha=0.4)
                axes.plot(x, rolling_mean(values, window), color=colour, linewidth=1.8)
            else:
                marker = "o" if shown.sum() <= 40 else None
                axes.plot(x[shown], values[shown], color=colour, linewidth=1.8, marker=marker, markersize=3.5)
            if line.low is not None and line.high is not None:
                axes.fill_between(x, _floats(line.low), _floats(line.high), color=colour, alpha=0.16, linewidth=0)
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        if doubling:
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in xs], minor=False)
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _finish(axes, x_name, floor, ceiling, percent, log)
        texts = []
        for index, value in enumerate(xs):
            parts = []
            for line in lines:
                part = f"{line.label} {number(line.values[index], percent)}"
                if line.low is not None and line.high is not None:
                    part += f" [{number(line.low[index], percent)}, {number(line.high[index], percent)}]"
                parts.append(part)
            texts.append(f"{x_name} {value}: " + " · ".join(parts))
        readout = _readout(figure, axes, x, texts)
        legend = [(index, line.label) for index, line in enumerate(lines[: len(_SERIES)], start=1)]
        return Chart(title, unit, note, _inline(figure, key, title), wide, legend, readout)


def stacked_chart(
    key: str,
    title: str,
    xs: Sequence[int],
    lines: list[ChartLine],
    *,
    unit: str = "",
    note: str = "",
    percent: bool = False,
) -> Chart:
    """Parts over steps, stacked; a missing value counts as zero."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(key, wide=True)
        x = np.array(xs, dtype=float)
        parts = [np.nan_to_num(_floats(line.values)) for line in lines]
        colours = _SERIES[: len(lines)]
        if len(xs) <= 40:
            foot = np.zeros(len(xs))
            for part, colour in zip(parts, colours, strict=False):
                axes.bar(x, part, bottom=foot, color=colour, width=0.8)
                foot = foot + part
        else:
            axes.stackplot(x, *parts, colors=colours, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _finish(axes, "step", 0, None, percent, log=False)
        texts = [
            f"step {value}: " + " · ".join(f"{line.label} {number(line.values[i], percent)}" for line in lines)
            for i, value in enumerate(xs)
        ]
        readout = _readout(figure, axes, x, texts)
        legend = [(index, line.label) for index, line in enumerate(lines, start=1)]
        return Chart(title, unit, note, _inline(figure, key, title), True, legend, readout)
