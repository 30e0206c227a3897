"""Tables of the HTML page: cells with what they are sorted by, and the whole leaderboard as one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.report.leaderboard import Row
from kdbench.report.tables import NONE, Cell, Column, Table, details_table, main_table

NUMBER = re.compile(r"^([+\-−]?\d+(?:\.\d+)?(?:e[+\-]?\d+)?)\s*([kMGT]?)(B|s|min|h|%)?")
SCALES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it, as in kdbench.report.tables.

    value: the number that it is sorted by, as text; None where it is sorted as text.
    """

    text: str
    extra: str = ""
    best: bool = False
    near: bool = False
    value: str | None = None


@dataclass(frozen=True)
class Line:
    """A row of the page's table; `row` is the row of the leaderboard behind it, None in other tables."""

    cells: tuple[Shown, ...]
    kind: str
    row: Row | None = None
    table: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of the page. further: how many of its last columns are shown only when they are asked for."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    further: int = 0


def grid(table: Table) -> Grid:
    """Any table of the report."""
    lines = [
        Line(tuple(_shown(c, cell) for c, cell in zip(table.columns, row, strict=True)), kind)
        for row, kind in zip(table.rows, table.kinds, strict=True)
    ]
    return Grid(table.columns, tuple(lines))


def leaderboard_grid(tables: Sequence[str], rows: Sequence[Sequence[Row]]) -> Grid:
    """The leaderboards of all tables as one: main columns, then the further measurements. rows: those of each table.

    A column that a table lacks is empty in its rows; with several tables the first column says which.
    """
    main, further = [main_table(group) for group in rows], [details_table(group) for group in rows]
    first = _union(main)
    second = [c for c in _union(further) if c.heading not in {column.heading for column in first}]
    columns = [*([Column("Pair", "teacher and student", False)] if len(tables) > 1 else []), *first, *second]
    lines: list[Line] = []
    for name, group, above, below in zip(tables, rows, main, further, strict=True):
        for i, row in enumerate(group):
            cells = {**_by_heading(below, i), **_by_heading(above, i), "Pair": Cell(name.replace("->", "→"))}
            shown = tuple(_shown(column, cells.get(column.heading, Cell(NONE))) for column in columns)
            lines.append(Line(shown, above.kinds[i], row, name))
    return Grid(tuple(columns), tuple(lines), len(second))


def sort_value(text: str) -> float | None:
    """The number at the start of a cell: 272000 for `0.272 M`, 312 for `5.2 min`, -0.3 for `−0.30‡`; else None."""
    found = NUMBER.match(text)
    if not found:
        return None
    number, prefix, unit = found.groups()
    return float(number.replace("−", "-")) * SCALES.get(prefix, 1.0) * SCALES.get(unit or "", 1.0)


def _union(tables: Sequence[Table]) -> list[Column]:
    """Columns of several tables by heading; what only some have stands where they have it."""
    longest = max(tables, key=lambda table: len(table.columns), default=None)
    found = {c.heading: c for c in (longest.columns if longest else ())}
    for table in tables:
        found |= {c.heading: c for c in table.columns if c.heading not in found}
    return list(found.values())


def _by_heading(table: Table, i: int) -> dict[str, Cell]:
    return {column.heading: cell for column, cell in zip(table.columns, table.rows[i], strict=True)}


def _shown(column: Column, cell: Cell) -> Shown:
    value = sort_value(cell.text) if column.numeric else None
    return Shown(cell.text, cell.extra, cell.best, cell.near, None if value is None else f"{value:.12g}")
