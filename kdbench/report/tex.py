"""The report for a paper: `leaderboard.tex` with every table, and `paper.tex`, a document of it and the figures.

Each table is a float with a short caption; what holds for all of them is said once, in the notes at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from kdbench.report import captions
from kdbench.report.compact import compact_table
from kdbench.report.exhibit import Exhibit
from kdbench.report.latex import PACKAGES, height, latex, sideways, tabular
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.search import search_summary
from kdbench.report.tables import Table, configuration_table, fairness_table, quality_table, search_table

LINES, LINES_SIDEWAYS = 44, 30  # of a table on one page; a longer one goes on in another float
CROWD = 8  # floats: LaTeX keeps a limited number of them waiting, so the page is ended after so many


@dataclass(frozen=True)
class Float:
    """One table as a float. lines: of LaTeX, from `\\begin{tabular}` on. remark: beneath the table."""

    label: str
    caption: str
    lines: list[str]
    remark: str
    sideways: bool


@dataclass(frozen=True)
class Picture:
    """A figure of paper.tex: the stem of its PDF and its caption."""

    name: str
    caption: str


def tables(results: Results, board: Leaderboard, exhibits: Sequence[Exhibit]) -> str:
    """`leaderboard.tex`: all tables, to be read by `\\input` in a document that loads PACKAGES."""
    floats = [float_ for name in results.tables for float_ in _floats(results, board, name)]
    floats += [float_ for exhibit in exhibits for float_ in _of_exhibit(exhibit, board)]
    return _template("leaderboard").render(
        packages=PACKAGES, floats=floats, crowd=CROWD, partial=captions.partial(board),
        untested="" if board.has_final else captions.NOTHING_TESTED,
        notes=[captions.legend(board), *captions.notes(results, board), *captions.unranked(board),
               *captions.provenance(results)],
        exhibits=[exhibit for exhibit in exhibits if exhibit.notes or exhibit.refusal],
    )  # fmt: skip


def paper(results: Results, board: Leaderboard, exhibits: Sequence[Exhibit]) -> str:
    """`paper.tex`: a whole document of the tables and the figures, compiled beside them: `pdflatex paper.tex`."""
    pictures = [Picture("pareto", captions.figure(results, board))] if board.has_final else []
    pictures += [Picture(exhibit.name, f"{exhibit.title}.") for exhibit in exhibits if exhibit.figure]
    return _template("paper").render(
        packages=PACKAGES, name=str(results.study.get("study", "study")),
        question=str(results.study.get("question") or ""), pictures=pictures, crowd=CROWD,
    )  # fmt: skip


def _floats(results: Results, board: Leaderboard, name: str) -> Iterator[Float]:
    """The tables of one leaderboard: results, further measurements, costs, search and fairness."""
    rows = board.of(name)
    given = captions.given_to(board, name)
    search = search_table([row for row in search_summary(results) if table_name(row.pair) == name], given)
    counted = captions.counted(given)
    stem = _label(name)
    if board.has_final:
        yield from _split(compact_table(rows), f"{stem}-main", captions.main(results, rows, name), counted)
        yield from _split(quality_table(rows), f"{stem}-quality", captions.quality(rows, name), counted)
        yield from _split(configuration_table(rows), f"{stem}-cost", captions.configurations(name), counted)
    if search.rows:
        yield from _split(search, f"{stem}-search", captions.searched(results, name), counted)
    table, same, exceptions = fairness_table(given)
    remark = f"The same for every method: {'; '.join(same)}." if same else ""
    remark += f" Except: {'; '.join(exceptions)}." if exceptions else ""
    yield from _split(table, f"{stem}-fairness", captions.given(name), counted, remark)


def _of_exhibit(exhibit: Exhibit, board: Leaderboard) -> Iterator[Float]:
    for name, table in exhibit.tables.items():
        if table.rows:
            label = f"{exhibit.name}-{_label(name)}" if name else exhibit.name
            counted = captions.counted(captions.given_to(board, name))
            yield from _split(table, label, f"{exhibit.title}{f', {name}' if name else ''}.", counted)


def _split(table: Table, label: str, caption: str, counted: str, remark: str = "") -> Iterator[Float]:
    """The table as floats that fit a page each; the caption says which is not the first."""
    turned = sideways(table)
    parts = _parts(height(table), LINES_SIDEWAYS if turned else LINES)
    for i, (start, stop) in enumerate(parts):
        part = Table(table.columns, table.rows[start:stop], table.kinds[start:stop])
        words = f"{caption} {counted}".strip() if i == 0 else f"{caption.partition('.')[0]}, continued."
        name, last = label if i == 0 else f"{label}-{i + 1}", i == len(parts) - 1
        yield Float(name, words, tabular(part), remark if last else "", turned)


def _parts(heights: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ranges of rows that take at most so many lines."""
    parts, start, filled = [], 0, 0
    for i, lines in enumerate(heights):
        if filled + lines > limit and i > start:
            parts.append((start, i))
            start, filled = i, 0
        filled += lines
    return [*parts, (start, len(heights))]


def _label(name: str) -> str:
    """A name as part of a label: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("kdbench.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, block_start_string="<%", block_end_string="%>", variable_start_string="<<",
        variable_end_string=">>", comment_start_string="<#", comment_end_string="#>",  # jinja's own are LaTeX's braces
    )  # fmt: skip
    environment.filters["tex"] = latex
    return environment.get_template(f"{name}.tex.jinja")
