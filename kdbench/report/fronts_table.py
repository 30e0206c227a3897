"""The exhibit `fronts`: every ranked row, whether it is on each reported front, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdbench.labels import plural
from kdbench.record import metric
from kdbench.report import stats
from kdbench.report.exhibit import Exhibit
from kdbench.report.fronts import Front
from kdbench.report.fronts_figure import fronts_figure
from kdbench.report.leaderboard import Row
from kdbench.report.pareto import bare
from kdbench.report.replicates import REPLICATES
from kdbench.report.tables import NONE, SHORT, Cell, Column, Table

TITLE = "Reported fronts, with the noise of the seeds"
MOST = 3  # objectives of a front
FIXED = ("params", "size_bytes", "flops")


def fronts_exhibit(fronts: Sequence[Front], methods: Sequence[str]) -> Exhibit:
    """Test means of retrained configurations, by table, for each front of the study. methods: in the study's order."""
    if not fronts:
        why = "No row is ranked with all objectives of a front measured, so there is no reported front."
        return Exhibit("fronts", TITLE, refusal=why)
    tables = {
        table: _table([f for f in fronts if f.table == table]) for table in dict.fromkeys(f.table for f in fronts)
    }
    frame = pd.DataFrame([_line(front, j) for front in fronts for j in range(len(front.rows))])
    drawn = [front for front in fronts if front.replicates is not None and len(front.objectives) == 2]
    figure = (lambda: fronts_figure(drawn, methods)) if drawn else None
    return Exhibit("fronts", TITLE, tables, frame, figure, _notes(fronts))


def front_title(front: Front) -> str:
    """`Top-1, Params` for a front's objectives."""
    return ", ".join(short_title(name) for name in front.objectives)


def short_title(name: str) -> str:
    """The short heading of a metric, with the batch where it is a latency's."""
    base = bare(name)
    return SHORT[base] if base in SHORT else metric(base).title


def _table(fronts: Sequence[Front]) -> Table:
    rows: dict[str, Row] = {row.id: row for front in fronts for row in front.rows}
    ordered = sorted(rows.values(), key=lambda row: (row.rank or 0, list(rows).index(row.id)))
    columns = [
        Column("#", "rank by mean test top-1"),
        Column("Method", numeric=False),
        Column("Student", numeric=False),
    ]
    for front in fronts:
        words = " and ".join(metric(name).title for name in front.objectives)
        columns += [
            Column(front_title(front), f"on the front of {words}, by means [share of bootstrap replicates]", False),
            Column("Beaten by", "the row that most probably dominates it there (share of replicates)", False),
        ]
    cells = [
        (Cell(str(row.rank)), Cell(row.method), Cell(row.student or NONE), *(c for f in fronts for c in _cells(f, row)))
        for row in ordered
    ]
    return Table(tuple(columns), tuple(cells), ("student",) * len(cells))


def _cells(front: Front, row: Row) -> tuple[Cell, Cell]:
    j = next((j for j, other in enumerate(front.rows) if other.id == row.id), None)
    if j is None:
        return Cell(NONE), Cell(NONE)
    rival, share = front.rival(j), front.shares[j]
    known = f"[{share:.2f}]" if front.enough[j] else ""
    beaten = Cell(NONE) if rival is None else Cell(front.labels[rival[0]], f"({rival[1]:.2f})")
    return Cell("yes" if front.flags[j] else "no", known), beaten


def _line(front: Front, j: int) -> dict[str, Any]:
    row, rival = front.rows[j], front.rival(j)
    known = bool(front.enough[j])
    return {
        "table": front.table, "front": " ".join(front.names), "row": row.id, "pair": row.pair, "rank": row.rank,
        "method": row.method, "student": row.student, "settings": row.settings, "seeds": len(front.samples[j]),
        **{f"objective_{i}": value for i, value in enumerate((*map(float, front.points[j]), None)[:MOST], start=1)},
        "on_front": bool(front.flags[j]), "share_on_front": float(front.shares[j]) if known else None,
        "dominated_by": front.rows[rival[0]].id if rival else None,
        "dominated_by_label": front.labels[rival[0]] if rival else None,
        "dominated_probability": rival[1] if rival else 0.0 if known else None,
    }  # fmt: skip


def _notes(fronts: Sequence[Front]) -> tuple[str, ...]:
    names = list(dict.fromkeys(name for front in fronts for name in front.objectives))
    counts = sorted({len(sample) for front in fronts for sample in front.samples})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    notes = [
        "Reported front: test means of retrained configurations; only ranked rows count. A row is on a front if no "
        "other is at least as good in every objective and better in one; equal rows are on it together. The search "
        "front, of validation results of single trainings, is apart from it."
    ]
    if any(front.replicates is not None for front in fronts):
        notes.append(
            f"[Share of {REPLICATES:,} bootstrap replicates (seed 0) in which the row is on the front] and the row "
            f"that dominates it in most of them (its share). n = {n} training seeds, the unit of replication; rows of "
            "equal seeds are resampled together, as in the paired differences, others apart. With few seeds such "
            f"shares are too sure: {stats.MINIMUM} seeds have 10 different resamples."
        )
        notes.append(_noise(names))
    if not all(front.enough.all() for front in fronts):
        notes.append(
            f"Rows with fewer than {stats.MINIMUM} seeds get no share and no rival; where others have enough, they "
            "take part in the replicates with the seeds they have, which is too little noise."
        )
    left = sum(front.left_out for front in fronts)
    if left:
        notes.append(f"Left out of a front: {plural(left, 'row')} without one of its objectives, or with a latency of "
                     "other conditions.")  # fmt: skip
    return tuple(notes)


def _noise(names: Sequence[str]) -> str:
    """What the replicates cover and what they do not."""
    varied = [metric(name).title for name in names if name not in FIXED and not name.startswith("latency_")]
    fixed = [metric(name).title for name in names if name in FIXED]
    timed = [metric(name).title for name in names if name.startswith("latency_")]
    text = f"Covered is the noise of training seeds in {', '.join(varied) or 'nothing'}"
    text += f"; {', '.join(fixed)}: constant, without noise" if fixed else ""
    text += f"; {', '.join(timed)}: one measurement of each model, whose noise is not covered" if timed else ""
    return f"{text}. Data split, teacher and chosen configuration are fixed, so their noise is not covered either."
