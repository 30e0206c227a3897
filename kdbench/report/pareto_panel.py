"""One panel of the Pareto figure: the rows of one table against one cost."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from kdbench.report.figures import GRID, INK, PAGE, QUIET, Style
from kdbench.report.leaderboard import FRONTS, Row


@dataclass(frozen=True)
class Size:
    """How large a panel draws. marker, star, line: in points. step: sideways, and `tall`: half a marker's height, in
    shares of the axes. letters: of labels, in points. apart: least distance of two costs that are named, in shares."""

    marker: float
    star: float
    line: float
    step: float
    tall: float
    letters: float
    apart: float
    names: bool  # the students' names along the top


LARGE = Size(marker=7.0, star=15.0, line=1.4, step=0.0145, tall=0.012, letters=9.0, apart=0.075, names=True)
SMALL = Size(marker=4.6, star=9.0, line=0.9, step=0.03, tall=0.022, letters=7.5, apart=0.17, names=False)
STEPS: tuple[tuple[float, ...], ...] = (
    tuple(n / 10 for n in range(10, 100)), tuple(n / 20 for n in range(20, 200)), (*(1 + n / 5 for n in range(45)),),
    (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,),
)  # fmt: skip
WIDEST = 0.24  # of the axis: rows of equal cost are spread no further to each side


def draw_panel(axes: Axes, rows: Sequence[Row], front: str, styles: Style, size: Size) -> None:
    """Draw one table against one cost; rows whose latency was measured under other conditions are left out."""
    cost = FRONTS[front][1]
    tested = [row for row in rows if row.scores]
    able = [r for r in tested if math.isfinite(r.value(cost)) and (front != "latency" or r.latency_comparable)]
    students = [row for row in able if row.kind == "student"]
    axes.set_xscale("log")
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _heights(axes, tested)
    offsets = _offsets(axes, students, cost, size)
    step = min([size.step, *(WIDEST / abs(offset) for offset in offsets if offset)])
    _limits(axes, [row.value(cost) for row in able], step * max(map(abs, offsets), default=0), size)
    _front_line(axes, [row for row in students if front in row.fronts], cost)
    for row, offset in zip(students, offsets, strict=True):
        _point(axes, row, _shifted(axes, row.value(cost), step * offset), styles, front in row.fronts, size)
    for row in rows:
        if row.kind == "teacher" and row.scores:
            _teacher(axes, row, row.value(cost) if row in able else None, size)
    axes.tick_params(labelsize=size.letters + 0.5)
    if size.names:
        _size_ticks(axes, students, cost)
        if front == "latency" and able:
            _conditions(axes, latency_conditions(able))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def latency_conditions(rows: Sequence[Row]) -> str:
    """What the latencies that are shown together were measured on; empty where there are none."""
    return next((row.latency_conditions for row in rows if row.latency_comparable), "")


def _conditions(axes: Axes, conditions: str) -> None:
    lines = "\n".join(textwrap.wrap(conditions, 78))
    look: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8.5, "color": QUIET}
    axes.annotate(lines, (0.5, 0), xycoords=("axes fraction", "axes fraction"), xytext=(0, -42),
                  textcoords="offset points", **look)  # fmt: skip


def _limits(axes: Axes, numbers: Sequence[float], spread: float, size: Size) -> None:
    """Limits of the costs, with room on both sides for rows of equal cost beside each other."""
    low, high = (min(numbers), max(numbers)) if numbers else (1.0, 10.0)
    ratio = high / low if high > low else 1.6
    room = spread + 0.07
    margin = max(ratio ** (room / (1 - 2 * room)), 1.1)
    axes.set_xlim(low / margin, high * margin)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim(), size.apart)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float, apart: float) -> list[float]:
    """Round numbers between two costs, as many as are so far apart on a logarithmic axis; two of them at least."""
    for steps in STEPS:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        gaps = [math.log(b / a) / math.log(high / low) for a, b in itertools.pairwise(found)]
        if len(found) > 1 and min(gaps) >= apart:
            return found
    return [float(f"{low * (high / low) ** share:.2g}") for share in (0.25, 0.75)]


def _heights(axes: Axes, rows: Sequence[Row]) -> None:
    """The same vertical limits for every panel of a table, with room for the intervals and the teacher's label."""
    low = min(row.score if row.interval.low is None else row.interval.low for row in rows)
    high = max(row.score if row.interval.high is None else row.interval.high for row in rows)
    margin = max(0.07 * (high - low), 0.2)
    axes.set_ylim(low - margin, high + 1.3 * margin)


def _tick(number: float) -> str:
    for limit, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:g}{prefix}"
    return f"{number:g}"


def _offsets(axes: Axes, rows: Sequence[Row], cost: str, size: Size) -> list[int]:
    """Sideways steps for rows of equal cost, so that neither markers nor intervals hide each other.

    The best stays at 0; each other one goes to the nearest of 0, 1, -1, 2, ... where it is free.
    """
    bottom, top = axes.get_ylim()
    tall = size.tall * (top - bottom)
    taken: dict[tuple[float, int], list[tuple[float, float]]] = {}
    offsets = [0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (not rows[i].rank, -rows[i].score, rows[i].method, rows[i].settings))
    for i in order:
        row, place = rows[i], 0
        low = min(row.score - tall, row.score if row.interval.low is None else row.interval.low)
        high = max(row.score + tall, row.score if row.interval.high is None else row.interval.high)
        while any(low < y[1] and y[0] < high for y in taken.get((row.value(cost), place), ())):
            place = -place if place > 0 else 1 - place
        taken.setdefault((row.value(cost), place), []).append((low, high))
        offsets[i] = place
    return offsets


def _shifted(axes: Axes, x: float, share: float) -> float:
    low, high = axes.get_xlim()
    return float(x * (high / low) ** share)


def _point(axes: Axes, row: Row, x: float, styles: Style, on_front: bool, size: Size) -> None:
    colour, marker = styles[row.method]
    if row.interval.low is not None and row.interval.high is not None:
        axes.plot([x, x], [row.interval.low, row.interval.high], color=colour, linewidth=size.line, zorder=3)
    edge, width = (INK, size.line) if on_front else (PAGE, 0.5 * size.line) if row.rank else (colour, 0.9 * size.line)
    look: dict[str, Any] = {"markeredgecolor": edge, "markeredgewidth": width, "linestyle": "none"}
    axes.plot(x, row.score, marker=marker, color=colour, markersize=size.marker * (1.15 if on_front else 1),
              markerfacecolor=colour if row.rank else PAGE, zorder=5 if on_front else 4, **look)  # fmt: skip


def _front_line(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """The region that the front dominates: to the right of and below its points."""
    if not rows:
        return
    points = sorted({(row.value(cost), row.score) for row in rows})
    x = [points[0][0], *(p[0] for p in points), axes.get_xlim()[1]]
    y = [points[0][1], *(p[1] for p in points), points[-1][1]]
    axes.step(x, y, where="post", color=INK, linewidth=1.0, alpha=0.55, zorder=2)
    axes.fill_between(x, y, axes.get_ylim()[0], step="post", color=QUIET, alpha=0.06, linewidth=0, zorder=0)


def _teacher(axes: Axes, row: Row, x: float | None, size: Size) -> None:
    axes.axhline(row.score, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    label = f"{row.method} {row.student} {row.score:.2f} %" if size.names else f"{row.method} {row.score:.2f}"
    box = {"boxstyle": "square,pad=0.1", "facecolor": PAGE, "edgecolor": "none", "alpha": 0.7}
    axes.annotate(label, (0.01, row.score), xycoords=("axes fraction", "data"), xytext=(0, 0.4 * size.letters),
                  textcoords="offset points", color=QUIET, fontsize=size.letters, zorder=6, bbox=box)  # fmt: skip
    if x is not None:
        axes.plot(x, row.score, marker="*", markersize=size.star, color=INK, markeredgecolor=PAGE, markeredgewidth=0.8,
                  linestyle="none", zorder=5)  # fmt: skip


def _size_ticks(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """The students' names along the top, at their cost; a name that would run into its neighbour is left out."""
    names = {row.value(cost): row.student for row in rows}
    low, high = (math.log(limit) for limit in axes.get_xlim())
    shown: list[float] = []
    for x in sorted(names):
        if not shown or (math.log(x) - math.log(shown[-1])) / (high - low) > 0.035:
            shown.append(x)
    top = axes.secondary_xaxis("top")
    labels = [names[x].replace(" x", " ×") for x in shown]
    top.set_xticks(shown, labels, rotation=40, ha="left", rotation_mode="anchor", fontsize=8.5)
    top.tick_params(which="both", length=3, pad=2, labelcolor=QUIET)
    top.xaxis.set_minor_locator(NullLocator())
    top.spines["top"].set_visible(False)
