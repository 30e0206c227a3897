"""Accuracy against cost as one figure: retrained configurations, intervals, the reported front and the teacher.

One or two tables get large panels, a row for each; more get a grid of small ones, at most four across.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kdbench.record import metric
from kdbench.report.figures import INK, PAGE, QUIET, Style, method_styles
from kdbench.report.leaderboard import FRONTS, Leaderboard
from kdbench.report.pareto_panel import LARGE, SMALL, draw_panel, latency_conditions

ACROSS = 4  # small panels beside each other
LARGE_TABLES = 2  # more tables get small panels
PANEL_W, PANEL_H, GAP_W, GAP_H = 2.55, 2.15, 0.62, 0.72  # small panels and what is between them, inches
LEFT, RIGHT, HEAD, FOOT = 0.75, 0.2, 0.45, 0.6  # around the small panels of one cost, inches
MARGIN = 0.14  # left of the words, inches


@dataclass(frozen=True)
class Words:
    """The text above a figure: its title in bold, its caption in quiet letters."""

    title: str
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and caption on top, `above` inches of it, that can be left out."""

    figure: Figure
    texts: tuple[Text, ...]
    above: float

    @contextmanager
    def bare(self) -> Iterator[Bbox]:
        """For where the words are in the text around the figure: they are hidden, and this is the rest of it."""
        width, height = self.figure.get_size_inches()
        for text in self.texts:
            text.set_visible(False)
        try:
            yield Bbox.from_bounds(0, 0, width, height - self.above)
        finally:
            for text in self.texts:
                text.set_visible(True)


def pareto_figure(board: Leaderboard, tables: Sequence[str], methods: Sequence[str], words: Words) -> Drawing:
    """Draw accuracy against every cost of FRONTS for every table that has a retrained configuration.

    methods: all of the study, in its order, which decides their colours.
    """
    fronts = [name for name in FRONTS if name != "latency" or any(row.latency_comparable for row in board.rows)]
    shown = [table for table in tables if any(row.scores for row in board.of(table))]
    legend = [method for method in methods if any(row.method == method and row.scores for row in board.rows)]
    styles = method_styles(methods)
    handles = [*[_handle(method, styles) for method in legend], *_common_handles(board)]
    draw = _grid if len(shown) > LARGE_TABLES else _rows
    return draw(board, shown, fronts, styles, handles, words)


def _rows(
    board: Leaderboard, tables: Sequence[str], fronts: Sequence[str], styles: Style, handles: list[Line2D], words: Words
) -> Drawing:
    """A row of large panels for each table."""
    columns, width = (6, 12.0) if len(fronts) > 1 else (3, 7.0)
    title, caption, above = _wrapped(words, width)
    height = above + 4.6 * len(tables) + 0.7 + 0.26 * math.ceil(len(handles) / columns)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine(
        ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, rect=(0, 0, 1, 1 - above / height))
    )
    grid = figure.subplots(len(tables), len(fronts), sharey="row", squeeze=False)
    for i, table in enumerate(tables):
        for j, front in enumerate(fronts):
            draw_panel(grid[i][j], board.of(table), front, styles, LARGE)
            grid[i][j].set_xlabel(_cost_title(front))
        grid[i][0].set_ylabel("test top-1 accuracy (%)")
        if len(tables) > 1:
            grid[i][0].set_title(table.replace("->", "→"), loc="left", pad=30)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.5, columnspacing=1.8)
    texts = _write(figure, title, caption)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; finding it again for every format takes as long as drawing
    return Drawing(figure, texts, above)


def _grid(
    board: Leaderboard, tables: Sequence[str], fronts: Sequence[str], styles: Style, handles: list[Line2D], words: Words
) -> Drawing:
    """Small panels, first of all tables against one cost, then against the next; every place is set in inches."""
    lines, across = math.ceil(len(tables) / ACROSS), min(ACROSS, len(tables))
    width = LEFT + RIGHT + across * PANEL_W + (across - 1) * GAP_W
    columns = max(1, int(width / (0.073 * max(len(str(h.get_label())) for h in handles) + 0.4)))
    title, caption, above = _wrapped(words, width)
    block = HEAD + lines * PANEL_H + (lines - 1) * GAP_H + FOOT
    height = above + len(fronts) * block + 0.25 + 0.197 * math.ceil(len(handles) / columns)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for number, front in enumerate(fronts):
        top = height - above - number * block
        _heading(figure, board, front, top - 0.12)
        for i, table in enumerate(tables):
            left = LEFT + i % ACROSS * (PANEL_W + GAP_W)
            bottom = top - HEAD - PANEL_H - i // ACROSS * (PANEL_H + GAP_H)
            axes = figure.add_axes((left / width, bottom / height, PANEL_W / width, PANEL_H / height))
            draw_panel(axes, board.of(table), front, styles, SMALL)
            axes.set_title(table.replace("->", "→"), loc="left", fontsize=9.5, pad=5)
            if i % ACROSS == 0:
                axes.set_ylabel("test top-1 (%)", fontsize=9.5)
            if i + ACROSS >= len(tables):
                axes.set_xlabel(_cost_title(front), fontsize=9.5)
    figure.legend(handles=handles, loc="lower center", ncols=columns, handletextpad=0.4, columnspacing=1.4, fontsize=9,
                  bbox_to_anchor=(0.5, 0.08 / height), borderaxespad=0)  # fmt: skip
    return Drawing(figure, _write(figure, title, caption), above)


def _heading(figure: Figure, board: Leaderboard, front: str, top: float) -> None:
    """What the panels below are: the cost, and for latency the conditions. top: inches from the figure's bottom."""
    width, height = figure.get_size_inches()
    conditions = latency_conditions(board.rows) if front == "latency" else ""
    figure.text(MARGIN / width, top / height, f"Accuracy against {metric(FRONTS[front][1]).title}", va="center",
                fontsize=11, fontweight="bold")  # fmt: skip
    if conditions:
        figure.text(1 - RIGHT / width, top / height, conditions, va="center", ha="right", fontsize=8.5, color=QUIET)


def _cost_title(front: str) -> str:
    about = metric(FRONTS[front][1])
    return f"{about.title}{f' ({about.unit})' if about.unit else ''}, log scale"


def _wrapped(words: Words, width: float) -> tuple[list[str], list[str], float]:
    """Title and caption as lines that fit a figure of that width in inches, and the height of both."""
    letters = int(width * 14.5)
    title, caption = textwrap.wrap(words.title, int(letters * 0.6)) or [""], textwrap.wrap(words.caption, letters)
    return title, caption, 0.3 + 0.25 * len(title) + 0.19 * len(caption)


def _write(figure: Figure, title: list[str], caption: list[str]) -> tuple[Text, ...]:
    """Title and caption, left-aligned at the figure's top; the caption in quiet, smaller letters."""
    width, height = figure.get_size_inches()
    below = 1 - (0.14 + 0.25 * len(title)) / height
    return (
        figure.text(MARGIN / width, 1 - 0.12 / height, "\n".join(title), va="top", fontsize=13, fontweight="bold",
                    linespacing=1.25),
        figure.text(MARGIN / width, below, "\n".join(caption), va="top", fontsize=9.5, color=QUIET, linespacing=1.4),
    )  # fmt: skip


def _handle(method: str, styles: Style) -> Line2D:
    colour, marker = styles[method]
    look: dict[str, Any] = {"linestyle": "none", "markersize": 7.5, "markeredgecolor": PAGE}
    return Line2D([], [], color=colour, marker=marker, label=method, **look)


def _common_handles(board: Leaderboard) -> list[Line2D]:
    ring: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.4}
    handles = [Line2D([], [], color=INK, linewidth=1, alpha=0.8, label="reported front (test)", markersize=8, **ring)]
    if any(row.kind == "teacher" and row.scores for row in board.rows):
        star: dict[str, Any] = {"marker": "*", "markersize": 12, "linestyle": "none", "markeredgecolor": PAGE}
        handles.append(Line2D([], [], color=INK, label="teacher", **star))
    if any(row.kind == "student" and row.scores and not row.rank for row in board.rows):
        look: dict[str, Any] = {"color": QUIET, "marker": "o", "markerfacecolor": PAGE, "linestyle": "none"}
        handles.append(Line2D([], [], label="not ranked (hollow)", **look))
    return handles
