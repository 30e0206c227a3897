"""Figures of fronts: the reported ones with the band of their bootstrap replicates, and attainment surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import moocore
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdbench.record import metric
from kdbench.report.figures import GRID, INK, PAGE, QUIET, method_styles
from kdbench.report.pareto import maximise, on_front
from kdbench.report.search import objective_title
from kdbench.report.stats import LEVEL

if TYPE_CHECKING:
    from kdbench.report.attainment import Attainment
    from kdbench.report.fronts import Front

MOST_PANELS = 60
WIDTH = 12.0
BAND = ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)  # attained in so many of the replicates


def fronts_figure(fronts: Sequence[Front], methods: Sequence[str]) -> Figure:
    """A panel for each table and front of two objectives: rows by how surely they are on it, and the band of the front.

    A marker's area is the row's share of replicates on the front; hollow: it has too few seeds for one.
    """
    styles = method_styles(methods)
    figure, panels = _grid(len(fronts), min(2, len(fronts)), 4.4, 0.9)
    shown = [m for m in methods if any(row.method == m for front in fronts for row in front.rows)]
    for axes, front in zip(panels, fronts, strict=True):
        _axes(axes, front.objectives)
        axes.set_title(front.table.replace("->", "→"), loc="left")
        points = front.points[:, ::-1]  # costs go along, accuracy up
        _band(axes, front)
        for j in np.argsort(-np.nan_to_num(front.shares), kind="stable"):  # large markers below small ones
            row = front.rows[j]
            colour, marker = styles[row.method]
            share, known = front.shares[j], bool(front.enough[j])
            look: dict[str, Any] = {"facecolors": "none", "edgecolors": colour}
            if known:
                edge, width = (INK, 1.2) if front.flags[j] else (PAGE, 0.6)
                look = {"facecolors": colour, "edgecolors": edge, "linewidths": width}
            x, y = points[j]
            axes.scatter(x, y, s=24 + 120 * (share if known else 0), marker=marker, zorder=3, **look)
    marks = [Line2D([], [], color=styles[m][0], marker=styles[m][1], linestyle="none", label=m) for m in shown]
    ring = Line2D([], [], marker="o", linestyle="none", markerfacecolor="none", markeredgecolor=INK)
    ring.set_label("on the front of the means; area: share of replicates on the front")
    band = Patch(color=QUIET, alpha=0.25, linewidth=0, label="front of 95 % of the replicates; line: their median")
    figure.legend(handles=[*marks, ring, band], loc="outside lower center", ncols=4)
    return _drawn(figure)


def attainment_figure(found: Sequence[Attainment], methods: Sequence[str]) -> Figure:
    """A panel for each table and method: median attainment as a line, from best to worst as a band. Two objectives."""
    columns = min(4, len(found))
    figure, panels = _grid(len(found), columns, 2.9, 0.6)
    several = len({attainment.table for attainment in found}) > 1
    styles = method_styles(methods)
    everything = np.concatenate(
        [points for a in found for points in a.surfaces.values() if len(points)] or [np.ones((1, 2))]
    )
    limits = _limits(everything)
    for axes, attainment in zip(panels, found, strict=True):
        names = attainment.objectives
        _axes(axes, names)
        axes.set_xlim(*limits[1])
        axes.set_ylim(*limits[0])
        colour = styles[attainment.method][0]
        best, median, worst = (attainment.surfaces[name] for name in ("best", "median", "worst"))
        _between(axes, best, worst, names, colour)
        _step(axes, median, names, colour)
        title = f"{attainment.table.replace('->', '→')}\n{attainment.method}" if several else attainment.method
        axes.set_title(title, loc="left", fontsize=10)
    for i, axes in enumerate(panels):  # names of axes only along the edges, below a column that ends early too
        axes.xaxis.label.set_visible(i + columns >= len(panels))
        axes.yaxis.label.set_visible(i % columns == 0)
    band = Patch(color=QUIET, alpha=0.25, linewidth=0, label="from attained in one repeat to attained in all")
    line = Line2D([], [], color=QUIET, label="attained in half of the repeats (median)")
    figure.legend(handles=[line, band], loc="outside lower center", ncols=2)
    return _drawn(figure)


def _grid(count: int, columns: int, height: float, below: float) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    width = WIDTH if columns > 1 else 7.0
    figure = Figure(figsize=(width, height * rows + below), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; finding it again for every format takes as long as drawing
    return figure


def _axes(axes: Axes, names: Sequence[str]) -> None:
    """The second objective along, the first up, each better towards the upper left; costs on a logarithmic scale."""
    for name, axis in zip(names, (axes.yaxis, axes.xaxis), strict=True):
        about = metric(name)
        title = objective_title(name) if name.startswith("val_") else about.title
        if name.startswith("test_"):
            title = f"test {title}"
        axis.set_label_text(f"{title}{f' ({about.unit})' if about.unit else ''}")
    if metric(names[1]).unit not in ("%", "nat"):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _tick(number: float) -> str:
    for limit, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:g}{prefix}"
    return f"{number:g}"


def _band(axes: Axes, front: Front) -> None:
    """Where the front of the replicates lies: attained in 97.5 %, in half and in 2.5 % of them."""
    if front.replicates is None:
        return
    signs = np.where(maximise(front.objectives), -1.0, 1.0)
    means, counts = front.replicates.means, front.replicates.counts
    best_of = [points[on_front(points, front.objectives)] for points in means]  # which is all that attains anything
    several = [points for points, count in zip(best_of, counts, strict=True) for _ in range(count)]
    sets = np.repeat(np.arange(len(several)), [len(points) for points in several])
    found = moocore.eaf(np.concatenate(several) * signs, sets, percentiles=[100 * share for share in BAND])
    best, median, worst = (found[np.isclose(found[:, -1], 100 * share), :-1] * signs for share in BAND)
    names = front.objectives
    limits = _limits(np.concatenate([best, worst, front.points]))
    axes.set_ylim(*limits[0])
    axes.set_xlim(*limits[1])
    _between(axes, best, worst, names, QUIET)
    _step(axes, median, names, INK)


def _limits(points: np.ndarray) -> list[tuple[float, float]]:
    """Limits with a margin, of the first objective (linear) and of the second (logarithmic where it is positive)."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max(0.07 * (high[0] - low[0]), 0.2)
    factor = max((high[1] / low[1]) ** 0.08, 1.1) if low[1] > 0 else 1.1
    return [(low[0] - margin, high[0] + margin), (low[1] / factor, high[1] * factor)]


def _stairs(points: np.ndarray, x: np.ndarray, names: Sequence[str], beyond: float) -> np.ndarray:
    """The best of the first objective that points attain at each x of the second; `beyond` where they attain none."""
    up, along = maximise(names)
    attained = points[None, :, 1] >= x[:, None] if along else points[None, :, 1] <= x[:, None]
    worst = -np.inf if up else np.inf
    values = np.where(attained, points[None, :, 0], worst)
    best = values.max(axis=1, initial=worst) if up else values.min(axis=1, initial=worst)
    return np.where(np.isfinite(best), best, beyond)


def _corners(axes: Axes, *sets: np.ndarray) -> np.ndarray:
    """Where a step can be: the points' places along the second objective, and the ends of the axis."""
    return np.unique(np.concatenate([*[points[:, 1] for points in sets], axes.get_xlim()]))


def _where(names: Sequence[str]) -> Literal["pre", "post"]:
    """Less is better along: a point attains what is to its right."""
    return "pre" if maximise(names)[1] else "post"


def _step(axes: Axes, points: np.ndarray, names: Sequence[str], colour: str) -> None:
    x = _corners(axes, points)
    axes.step(x, _stairs(points, x, names, math.nan), where=_where(names), color=colour, linewidth=1.6, zorder=2)


def _between(axes: Axes, best: np.ndarray, worst: np.ndarray, names: Sequence[str], colour: str) -> None:
    """Fill what the best attains and the worst does not."""
    low, high = axes.get_ylim()
    floor = low if maximise(names)[0] else high
    x = _corners(axes, best, worst)
    lower, upper = (_stairs(points, x, names, floor) for points in (worst, best))
    axes.fill_between(x, lower, upper, step=_where(names), color=colour, alpha=0.25, linewidth=0, zorder=1)
