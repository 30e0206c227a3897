"""The report as one Markdown page: every table, every exhibit, and what they say about themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from kdbench.report import captions
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.search import search_summary
from kdbench.report.tables import Table, details_table, fairness_table, main_table, search_table


@dataclass(frozen=True)
class Section:
    """One leaderboard with its other tables. same: what the fairness table found equal for all its methods.

    exceptions: what a method fixes by definition, `same` or not.
    """

    name: str
    main: Table
    details: Table
    search: Table
    fairness: Table
    same: list[str]
    exceptions: list[str]


def render_markdown(results: Results, board: Leaderboard, exhibits: Sequence[Exhibit]) -> str:
    """Fill `templates/leaderboard.md.jinja`."""
    environment = Environment(
        loader=PackageLoader("kdbench.report"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = markdown
    return environment.get_template("leaderboard.md.jinja").render(
        name=str(results.study.get("study", "study")), question=str(results.study.get("question") or ""),
        partial=captions.partial(board), has_final=board.has_final, sections=_sections(results, board),
        exhibits=exhibits, notes=captions.notes(results, board), unranked=captions.unranked(board),
        provenance=captions.provenance(results), best=captions.BEST,
        untested=captions.NOTHING_TESTED, counted=lambda name: captions.counted(captions.given_to(board, name)),
    )  # fmt: skip


def _sections(results: Results, board: Leaderboard) -> list[Section]:
    search, sections = search_summary(results), []
    for name in results.tables:
        given = [row for row in board.fairness if table_name(row.pair) == name]
        trials = search_table([row for row in search if table_name(row.pair) == name], given)
        table, same, exceptions = fairness_table(given)
        rows = board.of(name)
        sections.append(Section(name, main_table(rows), details_table(rows), trials, table, same, exceptions))
    return sections


def markdown(text: object) -> str:
    """Text that Markdown shows as it is, inside a table too."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", line)
