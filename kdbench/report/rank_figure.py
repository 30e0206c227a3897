"""The critical-difference diagram: mean ranks on a line, and bars across the methods that a test does not tell apart.

Source: Demšar 2006, JMLR 7:1-30, figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdbench.report.figures import INK, PAGE, QUIET, Style

# inches: the axis, what stands above and below it, a bar's share, a name's line, and a letter of a name
AXIS, HEAD, GAP, FOOT, LANE, LINE, LETTER = 4.2, 0.95, 0.22, 0.42, 0.11, 0.24, 0.085
BESIDE, APART = 0.95, 0.12  # between the axis and a name; between two bars
TICKS = 12  # at most


def rank_figure(
    methods: Sequence[str], ranks: Sequence[float], difference: float, groups: Sequence[Sequence[int]], styles: Style,
    caption: str,
) -> Figure:  # fmt: skip
    """Draw it: the best rank is on the left; the better half of the methods is named there, the others on the right.

    methods, ranks: in equal order. difference: Nemenyi's critical difference. groups: of columns that are joined by a
    bar, from ranks.cliques. styles: colour and marker of each method. caption: one line below.
    """
    margin = BESIDE + LETTER * max(map(len, methods))
    lines = math.ceil(len(methods) / 2)
    spans = [(min(ranks[j] for j in group), max(ranks[j] for j in group)) for group in groups]
    lanes = _lanes(spans, APART * (len(methods) - 1) / AXIS)
    below = GAP + LANE * (max(lanes, default=-1) + 1)
    width, height = AXIS + 2 * margin, HEAD + below + LINE * (lines + 0.5) + FOOT
    scale = _Scale(len(methods), margin, height - HEAD)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _axis(axes, scale)
    _critical_difference(axes, scale, difference)
    for (best, worst), lane in zip(spans, lanes, strict=True):
        ends, y = [scale.x(best) - 0.04, scale.x(worst) + 0.04], scale.y - GAP / 2 - LANE * (lane + 0.5)
        axes.plot(ends, [y, y], color=INK, linewidth=3.2, solid_capstyle="butt", zorder=3)
    order = sorted(range(len(methods)), key=lambda j: (ranks[j], methods[j]))
    for place, j in enumerate(order):
        line = min(place, len(methods) - 1 - place)
        y = scale.y - below - LINE * (line + 0.5)
        _method(axes, methods[j], ranks[j], scale, y, place < lines, styles[methods[j]])
    axes.text(width / 2, FOOT / 2, caption, ha="center", va="center", fontsize=9, color=QUIET)
    return figure


@dataclass(frozen=True)
class _Scale:
    """Where a rank is, in inches. methods: the last rank; left: where the axis begins; y: its height."""

    methods: int
    left: float
    y: float

    def x(self, rank: float) -> float:
        return self.left + AXIS * (rank - 1) / (self.methods - 1)


def _axis(axes: Axes, scale: _Scale) -> None:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if scale.methods / s <= TICKS)
    first, last = scale.x(1), scale.x(scale.methods)
    axes.plot([first, last], [scale.y, scale.y], color=INK, linewidth=1.2, solid_capstyle="projecting", zorder=4)
    ticks = [1, *range(step, scale.methods + 1, step)] if step > 1 else list(range(1, scale.methods + 1))
    for tick in ticks:
        axes.plot([scale.x(tick)] * 2, [scale.y, scale.y + 0.07], color=INK, linewidth=1.0)
        axes.text(scale.x(tick), scale.y + 0.11, str(tick), ha="center", va="bottom", fontsize=9)
    axes.text(first - 0.15, scale.y, "better", ha="right", va="center", fontsize=9, color=QUIET, style="italic")
    axes.text(last + 0.15, scale.y, "worse", ha="left", va="center", fontsize=9, color=QUIET, style="italic")


def _critical_difference(axes: Axes, scale: _Scale, difference: float) -> None:
    """A bar of its length above the axis, from rank 1 on."""
    y, start = scale.y + 0.5, scale.x(1)
    end = start + (scale.x(2) - scale.x(1)) * difference
    axes.plot([start, end], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt")
    for x in (start, end):
        axes.plot([x, x], [y - 0.05, y + 0.05], color=INK, linewidth=1.6)
    words = f"critical difference {difference:.2f}"
    axes.text(start, y + 0.1, words, ha="left", va="bottom", fontsize=9.5)


def _method(axes: Axes, name: str, rank: float, scale: _Scale, y: float, left: bool, look: tuple[str, str]) -> None:
    """From its rank on the axis down, and sideways to its name; the mean rank stands between the two."""
    x, (colour, marker), away = scale.x(rank), look, -1 if left else 1
    side = scale.left - 0.3 if left else scale.left + AXIS + 0.3
    edge: dict[str, Any] = {"ha": "right" if left else "left", "va": "center"}
    axes.plot([x, x, side], [scale.y, y, y], color=colour, linewidth=1.0, zorder=2, solid_joinstyle="miter")
    axes.plot(
        [x], [scale.y], marker=marker, color=colour, markersize=6.5, markeredgecolor=PAGE, markeredgewidth=0.5, zorder=5
    )
    axes.text(side + away * 0.06, y, f"{rank:.2f}", fontsize=8.5, color=QUIET, **edge)
    axes.text(side + away * 0.46, y, name, fontsize=10, **edge)


def _lanes(spans: Sequence[tuple[float, float]], apart: float) -> list[int]:
    """The line that each bar is drawn on: the first one that is free, so that bars do not touch."""
    ends: list[float] = []
    lanes = []
    for start, end in spans:
        lane = next((i for i, taken in enumerate(ends) if start > taken + apart), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        lanes.append(lane)
    return lanes
