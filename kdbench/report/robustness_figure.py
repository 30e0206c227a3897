"""Accuracy on corrupted images as figures: what corruption costs each row, and each row under each corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from kdbench.report.evaluations import Evaluated
from kdbench.report.figures import COLOURS, GRID, INK, PAGE, QUIET

ROW_INCHES, AROUND_INCHES = 0.29, 1.15
Tables = Mapping[str, Sequence[Evaluated]]


def dots(tables: Tables, clean: str, corrupted: str) -> Figure:
    """A line for each row from its accuracy on corrupted images, with interval, to that on the same uncorrupted."""
    figure = _figure(tables, 7.0, 0.45)
    grid = figure.subplots(len(tables), 1, squeeze=False, height_ratios=[len(rows) + 2 for rows in tables.values()])
    for axes, (name, rows) in zip(grid[:, 0], tables.items(), strict=True):
        for y, one in enumerate(rows):
            at, interval = one.mean(corrupted), one.interval(corrupted)
            axes.plot([at, one.mean(clean)], [y, y], color=QUIET, linewidth=0.9, zorder=2)
            axes.plot(one.mean(clean), y, "o", color=COLOURS[0], markerfacecolor=PAGE, markersize=6.5, zorder=3)
            if interval.low is not None:
                axes.plot([interval.low, interval.high], [y, y], color=COLOURS[1], linewidth=3, alpha=0.45, zorder=3)
            axes.plot(at, y, "o", color=COLOURS[1], markersize=6.5, markeredgecolor=PAGE, zorder=4)
        _rows(axes, rows)
        axes.grid(True, axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("test top-1 accuracy (%)")
        _title(axes, name, tables)
    hollow = Line2D([], [], color=COLOURS[0], marker="o", markerfacecolor=PAGE, linestyle="none", label="uncorrupted")
    full = Line2D([], [], color=COLOURS[1], marker="o", linewidth=3, label="corrupted, mean and 95 % interval")
    figure.legend(handles=[hollow, full], loc="outside lower center", ncols=2)
    return _laid_out(figure)


def heat_map(tables: Tables, clean: str, corrupted: str, names: Mapping[str, str]) -> Figure:
    """Accuracy of each row under each corruption, written into its field; first on the images as they are, then the
    mean. One scale of colours for all tables."""
    columns = {"uncorrupted": clean, "mean": corrupted, **names}
    figure = _figure(tables, 2.6 + 0.46 * len(columns), 1.0)
    grid = figure.subplots(len(tables), 1, squeeze=False, height_ratios=[len(rows) + 3 for rows in tables.values()])
    values = {
        name: [[one.mean(result) for result in columns.values()] for one in rows] for name, rows in tables.items()
    }
    every = np.concatenate([np.asarray(block).ravel() for block in values.values()])
    low, high = float(every.min()), max(float(every.max()), float(every.min()) + 1.0)
    for axes, (name, rows) in zip(grid[:, 0], tables.items(), strict=True):
        axes.imshow(values[name], cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for y, line in enumerate(values[name]):
            for x, value in enumerate(line):
                colour = PAGE if value < (low + high) / 2 else INK
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.axvline(1.5, color=PAGE, linewidth=3)
        labels = [label.replace("_", " ") for label in columns]
        axes.set_xticks(range(len(columns)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        _rows(axes, rows)
        _title(axes, name, tables)
    return _laid_out(figure)


def _figure(tables: Tables, width: float, below: float) -> Figure:
    height = sum(ROW_INCHES * len(rows) + AROUND_INCHES + below for rows in tables.values())
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def _rows(axes: Axes, rows: Sequence[Evaluated]) -> None:
    """Names of the rows, the first on top."""
    several = len({one.row.student for one in rows}) > 1
    names = [f"{one.row.method}, {one.row.student}" if several else one.row.method for one in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _title(axes: Axes, name: str, tables: Tables) -> None:
    if len(tables) > 1:
        axes.set_title(name.replace("->", "→"), loc="left")


def _laid_out(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; finding it again for every format takes as long as drawing
    return figure
