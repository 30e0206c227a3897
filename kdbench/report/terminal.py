"""The report in a few lines for a terminal."""

from __future__ import annotations

from kdbench.labels import data_label
from kdbench.report import captions
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.search import search_summary
from kdbench.report.tables import Table, main_table, search_table

LEFT_OUT = ("Δ kd", "NLL ↓", "ECE % ↓")


def text(results: Results, board: Leaderboard) -> str:
    """Plain text table of a study, with a line that says what is partial or not ranked."""
    study = results.study.get("study", "study")
    lines = [f"{study}: {data_label(results.section('data'))}, test split"]
    if not board.has_final:
        lines = [f"{study}: nothing is retrained yet; best search trials on validation"]
    for name in results.tables:
        search = search_table([row for row in search_summary(results) if table_name(row.pair) == name])
        lines += ["", name, *text_table(main_table(board.of(name)) if board.has_final else search)]
    notes = [captions.partial(board), *captions.unranked(board)] if board.has_final else [captions.partial(board)]
    return "\n".join([*lines, "", *filter(None, notes), captions.failures(results)]) + "\n"


def text_table(table: Table) -> list[str]:
    """Lines of equal columns, numbers to the right."""
    keep = [i for i, column in enumerate(table.columns) if column.heading not in LEFT_OUT]
    columns = [table.columns[i] for i in keep]
    grid = [[column.heading.strip() for column in columns], *([""] * len(columns) for _ in table.rows)]
    for j, i in enumerate(keep):
        wide = max((len(row[i].extra) for row in table.rows), default=0)
        for line, row in zip(grid[1:], table.rows, strict=True):
            line[j] = f"{row[i].text} {row[i].extra.ljust(wide)}" if wide else row[i].text
    widths = [max(len(line[j]) for line in grid) for j in range(len(columns))]
    lines = [
        "  ".join(
            t.rjust(w) if c.numeric else t.ljust(w) for t, w, c in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in grid
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
