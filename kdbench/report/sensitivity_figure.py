"""Slices of the search trials as one figure: the score against each hyper-parameter, a row of panels per method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from kdbench.fields import Choice, Space
from kdbench.labels import value_label
from kdbench.record import metric
from kdbench.report.figures import COLOURS, GRID, INK, MARKERS, PAGE, QUIET

ACROSS = 4
WIDTH, HEIGHT = 2.9, 2.25  # of a panel with its labels, in inches


@dataclass(frozen=True)
class Slice:
    """The search trials of one method on one pair along one hyper-parameter.

    values, scores: of the finished trials, the same length. failed: values of those that did not finish.
    importance: share of the variance of the score, in [0, 1], or None with the reason.
    """

    pair: str
    method: str
    name: str
    space: Space
    values: tuple[Any, ...]
    scores: tuple[float, ...]
    failed: tuple[Any, ...]
    importance: float | None
    reason: str | None


def label(name: str) -> str:
    """A hyper-parameter as people read it: `student depth` for `student.depth`, `lr` for `shared.lr`."""
    return name.replace("student.", "student ", 1).removeprefix("shared.")


def sensitivity_figure(found: Sequence[Slice], objective: str) -> Figure:
    """Draw it: at most four panels side by side, one for each method and hyper-parameter, the pairs in colours.

    Of several pairs each score is less the mean of its method on its pair: levels of pairs are not what is asked.
    """
    panels: dict[tuple[str, str], list[Slice]] = {}
    for item in found:
        panels.setdefault((item.method, item.name), []).append(item)
    pairs = list(dict.fromkeys(item.pair for item in found))
    across = min(len(panels), ACROSS)
    down = math.ceil(len(panels) / across)
    legend = 0.22 * math.ceil(len(pairs) / max(across, 2)) + 0.2 if len(pairs) > 1 else 0.0
    width, height = WIDTH * across + 0.6, HEIGHT * down + legend + 0.1
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 0.15 / width, top=1 - 0.32 / height, bottom=(legend + 0.55) / height,
        hspace=0.85 / (HEIGHT - 0.85), wspace=0.55 / (WIDTH - 0.55),
    )  # fmt: skip
    styles = {pair: (COLOURS[i % len(COLOURS)], ("o", *MARKERS)[i % 8]) for i, pair in enumerate(pairs)}
    for axes, ((method, name), items) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, items, styles)
        axes.set_title(method, loc="left", fontsize=9, fontweight="bold")
        axes.set_xlabel(_with_importance(name, items), fontsize=9)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel(_title(objective, len(pairs) > 1), fontsize=8.5)
    if len(pairs) > 1:
        _legend(figure, styles, max(across, 2))
    return figure


def _title(objective: str, centred: bool) -> str:
    about = metric(objective)
    unit = f" ({about.unit})" if about.unit else ""
    words = about.title.replace("accuracy", "acc.") if len(about.title) > 24 else about.title
    less = ",\nless its mean" if centred else ""
    return f"{'val ' if objective.startswith('val_') else ''}{words}{unit}{less}"


def _with_importance(name: str, items: Sequence[Slice]) -> str:
    shares = [item.importance for item in items if item.importance is not None]
    text = label(name)
    if len(items) == 1 and shares:
        text += f" (importance {100 * shares[0]:.0f} %)"
    return text


def _panel(axes: Axes, items: Sequence[Slice], styles: Mapping[str, tuple[str, str]]) -> None:
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    choices = _choices(items)
    centred = len(styles) > 1
    for item in items:
        colour, marker = styles[item.pair]
        scores = np.array(item.scores) - (np.mean(item.scores) if centred else 0.0)
        axes.plot(
            [_place(v, choices) for v in item.values], scores, marker, color=colour, markersize=5, alpha=0.85,
            markeredgecolor=PAGE, markeredgewidth=0.5,
        )  # fmt: skip
        rug = [_place(v, choices) for v in item.failed]
        axes.plot(rug, [0.03] * len(rug), "|", color=INK, markersize=8, transform=axes.get_xaxis_transform())
    if choices:
        axes.set_xticks(range(len(choices)), [value_label(v) for v in choices])
        axes.set_xlim(-0.6, len(choices) - 0.4)
    else:
        _scale(axes, [item.space for item in items])


def _choices(items: Sequence[Slice]) -> list[Any]:
    """What a panel has as categories, over all its pairs; empty for numbers on a scale."""
    spaces = [item.space for item in items if isinstance(item.space, Choice)]
    values = dict.fromkeys(value for space in spaces for value in space.values)
    return sorted(values, key=lambda v: (str(type(v)), v))


def _place(value: Any, choices: Sequence[Any]) -> float:
    return float(choices.index(value)) if choices else float(value)


def _scale(axes: Axes, spaces: Sequence[Space]) -> None:
    """The whole range that was searched, on the scale on which it was."""
    ranges = [space for space in spaces if not isinstance(space, Choice)]
    low, high = min(space.low for space in ranges), max(space.high for space in ranges)
    if all(space.log for space in ranges) and low > 0:
        axes.set_xscale("log")
        margin = (high / low) ** 0.05
        axes.set_xlim(low / margin, high * margin)
        axes.xaxis.set_major_locator(LogLocator(subs=[1.0, 2.0, 5.0] if high / low < 100 else [1.0], numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.05 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _legend(figure: Figure, styles: Mapping[str, tuple[str, str]], columns: int) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6, label=pair.replace("->", "→"))
        for pair, (colour, marker) in styles.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8.5, labelcolor=QUIET)
