"""Accuracy of every method in several studies: a line for each method, a marker with its interval for each study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdbench.report.figures import COLOURS, GRID, MARKERS, PAGE
from kdbench.report.leaderboard import Row

WIDTH, LINE, AROUND = 7.0, 0.27, 1.3  # inches: the figure, a method, and what is above and below the methods
SPREAD = 0.5  # of a line: how far the markers of one method stand apart


def compare_figure(
    methods: Sequence[str],
    rows: Mapping[str, Sequence[Row | None]],
    teachers: Mapping[str, Sequence[tuple[str, float]]],
) -> Figure:
    """Draw it, the first method on top.

    rows: by study, the row of each method, None where the study has none. teachers: by study, name and accuracy in %:
    dashed lines of its colour.
    """
    figure = Figure(figsize=(WIDTH, AROUND + LINE * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, (study, found) in enumerate(rows.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        shift = SPREAD * ((place + 0.5) / len(rows) - 0.5)
        points = [(row, line + shift) for line, row in enumerate(found) if row is not None and row.scores]
        for row, y in points:
            if row.interval.low is not None and row.interval.high is not None:
                axes.plot([row.interval.low, row.interval.high], [y, y], color=colour, linewidth=1.4, zorder=2)
        axes.plot(
            [row.score for row, _ in points], [y for _, y in points], linestyle="none", marker=marker, markersize=5.5,
            color=colour, markeredgecolor=PAGE, markeredgewidth=0.5, label=study, zorder=3,
        )  # fmt: skip
        for name, score in teachers[study]:
            label = f"{name}, {study}"
            axes.axvline(score, color=colour, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1, label=label)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Test top-1 accuracy, %; mean over seeds and 95 % interval")
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure
