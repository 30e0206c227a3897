"""Validation accuracy per epoch of the retrained rows: what training looked like behind each number of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from kdbench.record import TrialRecord
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import GRID, method_styles
from kdbench.report.leaderboard import Leaderboard, Row
from kdbench.report.load import Results

QUANTITY = "val_top1_pct"
TITLE = "Training curves"
ACROSS = 4


def curves(results: Results, board: Leaderboard) -> list[Exhibit]:
    """The exhibit `curves`: mean, lowest and highest validation accuracy over the seeds of each row, by epoch.

    Nothing where no row has been retrained; a refusal where the records hold no curve.
    """
    if not board.has_final:
        return []
    frame = curves_frame(results, board)
    if frame.empty:
        reason = f"no curves: no record of a retrained row holds `{QUANTITY}` by epoch."
        return [Exhibit("curves", TITLE, refusal=reason)]
    counts = sorted(set(frame["seeds"]))
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    note = (
        f"Validation top-1 accuracy after every epoch of the final trainings: the mean over seeds ({n}; the unit of "
        "replication is the training seed); the files also hold the lowest and the highest seed, shaded in their "
        "figure: a range, and no interval. Seeds that did not finish count up to where they stopped. The validation "
        "images are also what configurations were chosen on, so the heights are optimistic; nothing in the table is "
        "read off these curves."
    )
    return [Exhibit("curves", TITLE, frame=frame, figure=lambda: _figure(frame, results), notes=(note,))]


def curves_frame(results: Results, board: Leaderboard) -> pd.DataFrame:
    """One line per (row, epoch): which row it is, how many seeds, and their mean, lowest and highest value."""
    lines = [line for table in results.tables for row in board.of(table) for line in _lines(results, table, row)]
    return pd.DataFrame(lines)


def seeds_of(results: Results, row: Row) -> list[TrialRecord]:
    """The records behind a retrained row, one for each seed, by seed; of equal seeds the first by key."""
    found: dict[int, TrialRecord] = {}
    for record in sorted((results.by_key[key] for key in row.keys), key=lambda r: (r.status != "finished", r.key)):
        found.setdefault(record.spec.seed, record)
    return [found[seed] for seed in sorted(found)]


def values_of(record: TrialRecord, quantity: str) -> list[float]:
    """One curve of a record, NaN where an epoch has no finite value; empty where it has none."""
    return [math.nan if value is None else float(value) for value in record.curves.get(quantity, ())]


def _lines(results: Results, table: str, row: Row) -> Iterator[Mapping[str, object]]:
    if row.kind != "student":
        return
    seeds = [curve for record in seeds_of(results, row) if (curve := values_of(record, QUANTITY))]
    for epoch in range(max(map(len, seeds), default=0)):
        values = np.array([curve[epoch] for curve in seeds if len(curve) > epoch and math.isfinite(curve[epoch])])
        if len(values):
            yield {
                "table": table, "pair": row.pair, "row": row.id, "method": row.method, "student": row.student,
                "epoch": epoch + 1, "seeds": len(values), f"{QUANTITY}_mean": float(values.mean()),
                f"{QUANTITY}_low": float(values.min()), f"{QUANTITY}_high": float(values.max()),
            }  # fmt: skip


def _figure(frame: pd.DataFrame, results: Results) -> Figure:
    """One panel for each table, at most four side by side; a line for each row in its method's colour."""
    tables = [table for table in results.tables if (frame["table"] == table).any()]
    across = min(len(tables), ACROSS)
    down = math.ceil(len(tables) / across)
    width, panel = (7.0, 4.2) if across == 1 else (3.2 * across + 0.6, 2.5)
    shown = [method for method in results.methods if (frame["method"] == method).any()]
    columns = min(len(shown), max(3, int(width / 1.9)))
    legend = 0.18 * math.ceil(len(shown) / columns) + 0.12
    height = panel * down + legend + 0.5
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(
        left=0.62 / width, right=1 - 0.15 / width, top=1 - 0.35 / height, bottom=(legend + 0.55) / height,
        hspace=0.55 / panel * 1.25, wspace=0.22,
    )  # fmt: skip
    styles = method_styles(results.methods)
    for axes, table in zip(grid.flat, tables, strict=False):
        _panel(axes, frame[frame["table"] == table], styles)
        axes.set_title(table.replace("->", "→"), loc="left", fontsize=10 if across == 1 else 8.5)
    for axes in list(grid.flat)[len(tables) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel("validation top-1 (%)", fontsize=9)
    for i in range(across):
        grid[(len(tables) - 1 - i) // across][i].set_xlabel("epoch", fontsize=9)
    handles = [Line2D([], [], color=styles[m][0], marker=styles[m][1], markersize=6, label=m) for m in shown]
    figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8.5, columnspacing=1.6)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, styles: Mapping[str, tuple[str, str]]) -> None:
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    last = int(frame["epoch"].max())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True) if last > 1 else FixedLocator([1]))
    for _, line in frame.groupby("row", sort=False):
        colour, marker = styles[str(line["method"].iloc[0])]
        low, mean, high = (line[f"{QUANTITY}_{part}"].to_numpy() for part in ("low", "mean", "high"))
        epochs = line["epoch"].to_numpy()
        few = len(epochs) <= 12
        axes.fill_between(epochs, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(epochs, mean, color=colour, linewidth=1.5, marker=marker if few else None, markersize=4)
