"""Accuracy against cost as one figure: retrained configurations, intervals, the reported front and the teacher."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from kdbench.record import metric
from kdbench.report.leaderboard import FRONTS, Leaderboard, Row

# Okabe and Ito's palette without its yellow (too pale on white) and with grey for black (which a dark page swallows)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE = "#7A7A7A"
MARKERS = ("s", "^", "D", "v", "p", "<", ">")
INK, QUIET, GRID, PAGE = "#1f2328", "#59636e", "#e3e7eb", "#ffffff"
SPREAD = 0.012  # of the axis, between neighbours that have the same x
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.labelsize": 11, "axes.titlesize": 12, "text.color": INK,
    "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": QUIET, "ytick.color": QUIET, "axes.linewidth": 0.8,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": PAGE, "axes.facecolor": PAGE, "savefig.facecolor": PAGE, "legend.frameon": False,
    "svg.fonttype": "path", "svg.hashsalt": "kdbench", "path.simplify": False, "text.parse_math": False,
}  # fmt: skip

Style = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Words:
    """The text around a figure."""

    title: str
    caption: str


@dataclass(frozen=True)
class Figures:
    """One figure in three forms: two files, and an element for an HTML page, which has the words around it itself."""

    svg: str
    png: bytes
    inline: str


def pareto_figures(board: Leaderboard, tables: Sequence[str], methods: Sequence[str], words: Words) -> Figures:
    """Draw the Pareto figure; the same rows give the same bytes. PNG at 200 dpi."""
    with style():
        titled, bare = _figure(board, tables, methods, words), _figure(board, tables, methods, None)
        png = io.BytesIO()
        titled.savefig(png, format="png", dpi=200, metadata={"Software": None})
        return Figures(_svg(titled), png.getvalue(), inline_svg(_svg(bare)))


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def inline_svg(svg: str) -> str:
    """The SVG as an element of an HTML page whose colours follow the page's."""
    element = svg[svg.index("<svg") :].rstrip().replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)
    for colour, variable in ((INK, "--ink"), (QUIET, "--quiet"), (GRID, "--line"), (PAGE, "--page")):
        element = element.replace(colour, f"var({variable})")
    return element


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's settings are; they are put back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def method_styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, in the study's order; the student alone is grey. Distinct up to 42 others."""
    others = [method for method in methods if method != "scratch"]
    styles = {m: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(others)}
    return {"scratch": (BASELINE, "o"), **styles}


def _figure(board: Leaderboard, tables: Sequence[str], methods: Sequence[str], words: Words | None) -> Figure:
    fronts = [name for name in FRONTS if name != "latency" or any(row.latency_comparable for row in board.rows)]
    shown = [table for table in tables if any(row.scores for row in board.of(table))]
    legend = [method for method in methods if any(row.method == method and row.scores for row in board.rows)]
    lines = math.ceil((len(legend) + 3) / (6 if len(fronts) > 1 else 3))
    width, height = (12.0 if len(fronts) > 1 else 7.0), 5.2 * len(shown) + 0.7 + 0.26 * lines
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(shown), len(fronts), sharey="row", squeeze=False)
    styles = method_styles(methods)
    for i, table in enumerate(shown):
        for j, front in enumerate(fronts):
            _panel(grid[i][j], board.of(table), front, styles)
        grid[i][0].set_ylabel("test top-1 accuracy (%)")
        if len(shown) > 1:
            grid[i][0].set_title(table.replace("->", "→"), loc="left", pad=30)
    if words:
        _words(figure, words, int(width * 14.5))
    handles = [*[_handle(method, styles) for method in legend], *_common_handles(board)]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=6 if len(fronts) > 1 else 3,
        handletextpad=0.5,
        columnspacing=1.8,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; finding it again for every format takes as long as drawing
    return figure


def _words(figure: Figure, words: Words, letters: int) -> None:
    """Title and caption, left-aligned above the panels; the caption in quiet, smaller letters."""
    title = textwrap.wrap(words.title, int(letters * 0.6)) or [""]
    caption = textwrap.wrap(words.caption, letters)
    figure.suptitle(
        "\n".join(title) + "\n" * len(caption),
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
        linespacing=1.25,
    )
    top = 1 - (0.1 + 0.235 * len(title)) / figure.get_figheight()
    figure.text(0.012, top, "\n".join(caption), va="top", fontsize=9.5, color=QUIET, linespacing=1.4)


def _panel(axes: Axes, rows: Sequence[Row], front: str, styles: Style) -> None:
    """One table against one cost; rows whose latency was measured under other conditions are left out."""
    cost = FRONTS[front][1]
    able = [
        r for r in rows if r.scores and math.isfinite(r.value(cost)) and (front != "latency" or r.latency_comparable)
    ]
    students = [row for row in able if row.kind == "student"]
    axes.set_xscale("log")
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _limits(axes, [row.value(cost) for row in able])
    _heights(axes, [row for row in rows if row.scores])
    _front_line(axes, [row for row in students if front in row.fronts], cost)
    offsets = _offsets(students, cost)
    for row, offset in zip(students, offsets, strict=True):
        _point(axes, row, _shifted(axes, row.value(cost), offset), styles, front in row.fronts)
    for row in rows:
        if row.kind == "teacher" and row.scores:
            _teacher(axes, row, row.value(cost) if row in able else None)
    _size_ticks(axes, students, cost)
    unit = metric(cost).unit
    axes.set_xlabel(f"{metric(cost).title}{f' ({unit})' if unit else ''}, log scale")
    if front == "latency" and able:
        conditions = next(row.latency_conditions for row in able)
        lines, below = "\n".join(textwrap.wrap(conditions, 78)), ("axes fraction", "axes fraction")
        look: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8.5, "color": QUIET}
        axes.annotate(lines, (0.5, 0), xycoords=below, xytext=(0, -42), textcoords="offset points", **look)


def _limits(axes: Axes, numbers: Sequence[float]) -> None:
    low, high = (min(numbers), max(numbers)) if numbers else (1.0, 10.0)
    margin = max((high / low) ** 0.08, 1.1)
    axes.set_xlim(low / margin, high * margin)
    ratio = high / low
    ticks = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0] if ratio < 8 else [1.0, 2.0, 5.0] if ratio < 300 else [1.0]
    axes.xaxis.set_major_locator(LogLocator(subs=ticks, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _heights(axes: Axes, rows: Sequence[Row]) -> None:
    """The same vertical limits for every panel of a table, with room for the intervals and the teacher's label."""
    low = min(row.score if row.interval.low is None else row.interval.low for row in rows)
    high = max(row.score if row.interval.high is None else row.interval.high for row in rows)
    margin = max(0.07 * (high - low), 0.2)
    axes.set_ylim(low - margin, high + margin)


def _tick(number: float) -> str:
    for limit, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:g}{prefix}"
    return f"{number:g}"


def _offsets(rows: Sequence[Row], cost: str) -> list[int]:
    """Sideways steps for rows of equal cost, so that they do not hide each other: the best at 0, then 1, -1."""
    members: dict[float, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.value(cost), []).append(i)
    offsets = [0] * len(rows)
    for group in members.values():
        ordered = sorted(group, key=lambda i: (not rows[i].rank, -rows[i].score, rows[i].method, rows[i].settings))
        for place, i in enumerate(ordered):
            offsets[i] = (place + 1) // 2 * (1 if place % 2 else -1)
    return offsets


def _shifted(axes: Axes, x: float, offset: int) -> float:
    low, high = axes.get_xlim()
    return float(x * (high / low) ** (SPREAD * offset))


def _point(axes: Axes, row: Row, x: float, styles: Style, on_front: bool) -> None:
    colour, marker = styles[row.method]
    low, high = row.interval.low, row.interval.high
    bars = None if low is None or high is None else np.array([[row.score - low], [high - row.score]])
    edge, width = (INK, 1.4) if on_front else (PAGE, 0.7) if row.rank else (colour, 1.3)
    axes.errorbar(
        x,
        row.score,
        yerr=bars,
        fmt=marker,
        color=colour,
        markersize=8 if on_front else 7,
        capsize=0,
        elinewidth=1.4,
        markerfacecolor=colour if row.rank else PAGE,
        markeredgecolor=edge,
        markeredgewidth=width,
        zorder=5 if on_front else 4,
    )


def _front_line(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """The region that the front dominates: to the right of and below its points."""
    if not rows:
        return
    points = sorted({(row.value(cost), row.score) for row in rows})
    x = [points[0][0], *(p[0] for p in points), axes.get_xlim()[1]]
    y = [points[0][1], *(p[1] for p in points), points[-1][1]]
    axes.step(x, y, where="post", color=INK, linewidth=1.0, alpha=0.55, zorder=2)
    axes.fill_between(x, y, axes.get_ylim()[0], step="post", color=QUIET, alpha=0.06, linewidth=0, zorder=0)


def _teacher(axes: Axes, row: Row, x: float | None) -> None:
    axes.axhline(row.score, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    label = f"{row.method} {row.student} {row.score:.2f} %"
    axes.annotate(
        label,
        (0.01, row.score),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color=QUIET,
        fontsize=9,
    )
    if x is not None:
        axes.plot(
            x,
            row.score,
            marker="*",
            markersize=15,
            color=INK,
            markeredgecolor=PAGE,
            markeredgewidth=0.8,
            linestyle="none",
            zorder=5,
        )


def _size_ticks(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """The students' names along the top, at their cost; a name that would run into its neighbour is left out."""
    names = {row.value(cost): row.student for row in rows}
    low, high = (math.log(limit) for limit in axes.get_xlim())
    shown: list[float] = []
    for x in sorted(names):
        if not shown or (math.log(x) - math.log(shown[-1])) / (high - low) > 0.035:
            shown.append(x)
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        shown,
        [names[x].replace(" x", " ×") for x in shown],
        rotation=40,
        ha="left",
        rotation_mode="anchor",
        fontsize=8.5,
    )
    top.tick_params(which="both", length=3, pad=2, labelcolor=QUIET)
    top.xaxis.set_minor_locator(NullLocator())
    top.spines["top"].set_visible(False)


def _handle(method: str, styles: Style) -> Line2D:
    colour, marker = styles[method]
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        linestyle="none",
        markersize=7.5,
        markeredgecolor=PAGE,
        label=method,
    )


def _common_handles(board: Leaderboard) -> list[Line2D]:
    ring: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.4}
    handles = [Line2D([], [], color=INK, linewidth=1, alpha=0.8, label="reported front (test)", markersize=8, **ring)]
    if any(row.kind == "teacher" and row.scores for row in board.rows):
        handles.append(
            Line2D(
                [], [], color=INK, marker="*", markersize=12, linestyle="none", markeredgecolor=PAGE, label="teacher"
            )
        )
    if any(row.kind == "student" and row.scores and not row.rank for row in board.rows):
        look: dict[str, Any] = {"color": QUIET, "marker": "o", "markerfacecolor": PAGE, "linestyle": "none"}
        handles.append(Line2D([], [], label="not ranked (hollow)", **look))
    return handles
