"""The merged tables as people read them: plain cells that the templates show, and sentences beside them."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.labels import plural
from kdbench.report import captions
from kdbench.report.tables import NONE, Cell, Column, Table, difference_cell, failures_text, number_text
from kdbench.standings.conditions import TITLES
from kdbench.standings.merge import Line, MergedTable, Standings

COLUMNS = (
    Column("#", "rank by mean test top-1 accuracy within this table"),
    Column("Method", numeric=False),
    Column("Submission", "whose row it is", False),
    Column("Student", numeric=False),
    Column("n", "seeds finished of seeds started"),
    Column("Top-1 % ↑", "mean test top-1 accuracy of the last epoch, with its bootstrap 95 % interval over seeds"),
    Column("To the first", "difference to the first row in % points, with its 95 % interval; ‡ unpaired"),
    Column("Status", "what independent re-runs say", False),
    Column("Params ↓", "parameters of the student"),
    Column("Batch 1 ms ↓", "median latency at batch 1; † measured otherwise than most rows of this table"),
    Column("Front", "P: no other ranked row is better in accuracy or parameters and not worse in the other", False),
    Column("Failures", "trainings that did not finish, search and final", False),
)
PAGE = 44  # rows of a table on one page
GENERAL = (
    "Ranked by mean test top-1 accuracy of the last epoch; the unit of replication is the training seed. Bootstrap "
    f"95 % intervals over seeds, not corrected for multiple comparisons. {captions.COVERAGE}",
    "To the first: difference to the first row in % points with its 95 % interval; ‡ unpaired, where seeds are not "
    "shared. Bold: the first. Underlined: the interval of the difference to the first holds 0.",
    "Latency is no part of any rank. † measured otherwise than most rows of its table.",
    "A failed seed is no part of a mean; it is counted in the row.",
)
ON_THE_PAGE_ONLY = ("Batch 1 ms ↓", "Front")
STATUS_WORDS = {
    "claimed": "nobody but the authors has run it, as far as files say",
    "verified (bit-equal)": "an independent re-run gave the same results and curves to the last bit",
    "verified (inside interval)": "an independent re-run lies within the 95 % prediction interval of the recorded ones",
    "not reproduced": "an independent re-run lies outside of it, or did not finish",
}


@dataclass(frozen=True)
class ShownLine:
    """One row: its cells in the order of COLUMNS, and the number that each sorts by, None where there is none.

    kind: `teacher`, `student`, `unranked` or `missing`. notes: what is said about this row alone.
    """

    line: Line
    kind: str
    cells: tuple[Cell, ...]
    keys: tuple[float | None, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ShownTable:
    """A merged table with its conditions as title and value, and sentences about its rows."""

    table: MergedTable
    lines: tuple[ShownLine, ...]
    conditions: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def paper(self) -> list[Table]:
        """The columns that a paper has room for, as parts of a page each."""
        places = [i for i, column in enumerate(COLUMNS) if column.heading not in ON_THE_PAGE_ONLY]
        columns = tuple(COLUMNS[i] for i in places)
        parts = [self.lines[start : start + PAGE] for start in range(0, len(self.lines), PAGE)]
        return [
            Table(columns, tuple(tuple(line.cells[i] for i in places) for line in part), tuple(x.kind for x in part))
            for part in parts
        ]


def shown(table: MergedTable) -> ShownTable:
    """A table as people read it."""
    lines = tuple(_shown(line) for line in table.lines)
    unranked = [
        f"Not ranked: {line.row.method} {line.row.student} of {line.submission}: {'; '.join(line.row.unranked)}."
        for line in table.lines
        if line.row.kind != "teacher" and line.row.unranked
    ]
    runs = [f"{line.row.method} of {line.submission}: {note}." for line in table.lines for note in line.status.notes]
    conditions = tuple((title, table.cells[name]) for name, title in TITLES.items())
    return ShownTable(table, lines, conditions, (*table_notes(table), *unranked, *runs))


def table_notes(table: MergedTable) -> list[str]:
    """How the table came about, in sentences that hold for all its rows."""
    ranked = [line for line in table.lines if line.rank]
    seeds = " or ".join(sorted({str(len(line.row.scores)) for line in ranked}, key=int))
    n = f"n = {seeds} training seeds a row" if seeds else "no row is ranked"
    first = f"{plural(len(ranked), 'ranked row')} of {plural(len(table.members), 'submission')}; {n}."
    return [first, *table.notes]


def _shown(line: Line) -> ShownLine:
    row, gap, low, high = line.row, line.behind, line.row.interval.low, line.row.interval.high
    expected = row.planned or row.runs
    n = NONE if row.kind == "missing" else f"{len(row.scores)}"
    latency, params = row.value("latency_b1_p50_ms"), row.value("params")
    mark = "†" if row.latency_conditions and not line.latency_comparable else ""
    pairs: tuple[tuple[Cell, float | None], ...] = (
        (Cell(str(line.rank or NONE)), line.rank),
        (Cell(row.method), None),
        (Cell(line.submission), None),
        (Cell(row.student or NONE), None),
        (Cell(n if len(row.scores) == expected or n == NONE else f"{n}/{expected}"), len(row.scores)),
        (Cell(number_text("top1_pct", row.score), "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]",
              best=line.rank == 1, near=line.near),
         row.score if row.scores else None),
        (difference_cell(gap), gap.mean if gap else 0.0 if line.rank == 1 else None),
        (Cell(line.status.word if row.kind == "student" else NONE), None),
        (Cell(number_text("params", params)), params if params == params else None),
        (Cell(number_text("latency_b1_p50_ms", latency) + mark), latency if latency == latency else None),
        (Cell("P" if line.on_front else ""), None),
        (Cell(failures_text(row.failures)), None),
    )  # fmt: skip
    cells, keys = zip(*pairs, strict=True)
    kind = "unranked" if row.kind == "student" and row.unranked else row.kind
    reasons = row.unranked if row.kind != "teacher" else ()
    return ShownLine(line, kind, cells, keys, (*(f"not ranked: {reason}" for reason in reasons), *line.status.notes))


def counts(standings: Standings) -> str:
    """`3 submissions, 4 tables, 26 ranked rows, 2 of them verified`."""
    ranked = [line for table in standings.tables for line in table.lines if line.rank]
    verified = sum(line.status.verified for line in ranked)
    return (
        f"{plural(len(standings.entries), 'submission')}, {plural(len(standings.tables), 'table')}, "
        f"{plural(len(ranked), 'ranked row')}, {verified} of them verified"
    )
