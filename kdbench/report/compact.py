"""The main table of a paper: few columns with one unit each, so that it fits the width of a page as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kdbench.report.fairness import FAILURES, PHASES
from kdbench.report.leaderboard import Row
from kdbench.report.tables import NONE, Cell, Column, Table, main_table

KEPT = ("#", "Method", "Student", "n", "Top-1", "Δ scratch", "Δ kd")  # of the main table, by how their headings start
LETTERS = {"failed": "f", "diverged": "d", "timed_out": "t", "lost": "l"}
LEGEND = "f failed, d diverged, t timed out, l lost, in search and final training"


def compact_table(rows: Sequence[Row]) -> Table:
    """Rank, method, student, n, accuracy and differences with intervals, parameters, latency, front, failures.

    What is the same for all rows has no column, for the caption tells it: the student, n, and that nothing failed.
    """
    full = main_table(rows)
    counts = {(len(row.scores), row.planned or row.runs) for row in rows if row.kind == "student"}
    alike = {"Student": len(students(rows)) < 2, "n": len(counts) < 2 and all(n == asked for n, asked in counts)}
    names = [name for name in KEPT if not alike.get(name)]
    kept = [j for j, column in enumerate(full.columns) if any(_starts(column.heading, name) for name in names)]
    parameters, unit = _parameters(rows)
    latency, measured = _latency(rows)
    failed = any(count for row in rows for count in row.failures.values())
    more: list[tuple[Column, Callable[[Row], Cell]]] = [
        (Column(f"Params ({unit})"), parameters),
        *([(Column("ms"), latency)] if measured else []),
        (Column("Front", numeric=False), lambda row: Cell(" ".join(_FRONTS[name] for name in row.fronts))),
        *([(Column("Failed", numeric=False), lambda row: Cell(failures_short(row.failures)))] if failed else []),
    ]
    columns = tuple(_short(full.columns[j]) for j in kept) + tuple(column for column, _ in more)
    cells = tuple(
        (*(_unsigned(line[j]) for j in kept), *(make(row) for _, make in more))
        for line, row in zip(full.rows, rows, strict=True)
    )
    return Table(columns, cells, full.kinds)


def students(rows: Sequence[Row]) -> list[str]:
    """The students of a table, each once."""
    return list(dict.fromkeys(row.student for row in rows if row.kind == "student"))


def _unsigned(cell: Cell) -> Cell:
    """Without the pluses in an interval, for which there is no room."""
    return replace(cell, extra=cell.extra.replace("+", ""))


_FRONTS = {"params": "P", "latency": "L"}


def failures_short(failures: Mapping[str, int]) -> str:
    """`1d 2f`: trainings that did not finish, of search and final together; `0` if all did."""
    counts = {status: sum(failures.get(f"{phase}_{status}", 0) for phase in PHASES) for status in FAILURES}
    return " ".join(f"{count}{LETTERS[status]}" for status, count in counts.items() if count) or "0"


def _starts(heading: str, word: str) -> bool:
    return heading == word or heading.startswith(f"{word} ")


def _short(column: Column) -> Column:
    """The heading without its arrow and its interval, which the caption tells."""
    return replace(column, heading="Top-1 (%)") if column.heading.startswith("Top-1") else column


def _parameters(rows: Sequence[Row]) -> tuple[Callable[[Row], Cell], str]:
    """Parameters of all rows in one unit, with as many places as tell the smallest apart."""
    found = [row.value("params") for row in rows if math.isfinite(row.value("params"))]
    factor, unit = (1e6, "M") if max(found, default=0.0) >= 1e6 else (1e3, "k")
    places = 2 if min(found, default=factor) >= 0.1 * factor else 3
    return lambda row: _fixed(row.value("params") / factor, places if unit == "M" else 1), unit


def _latency(rows: Sequence[Row]) -> tuple[Callable[[Row], Cell], bool]:
    """Median latency at batch 1, marked where it was measured under other conditions; and whether any was measured."""
    found = [row.value("latency_b1_p50_ms") for row in rows if math.isfinite(row.value("latency_b1_p50_ms"))]
    places = 3 if min(found, default=1.0) < 0.1 else 2

    def cell(row: Row) -> Cell:
        mark = "†" if row.latency_conditions and not row.latency_comparable else ""
        return _fixed(row.value("latency_b1_p50_ms"), places, mark)

    return cell, bool(found)


def _fixed(value: float, places: int, mark: str = "") -> Cell:
    return Cell(f"{value:.{places}f}{mark}") if math.isfinite(value) else Cell(NONE)
