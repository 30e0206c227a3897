"""The report as one HTML page that needs nothing else: no other file, no network, and scripts allowed by their hash."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdbench.report import captions
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import inline_svg, style, svg
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.page_data import embedded, page_data
from kdbench.report.page_table import Grid, grid, leaderboard_grid
from kdbench.report.search import search_summary
from kdbench.report.tables import fairness_table, search_table

TEMPLATES = resources.files("kdbench.report") / "templates"
SCRIPTS = ("page.js", "page_table.js", "page_charts.js", "page_curves.js", "page_row.js")
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Part:
    """An exhibit as the page shows it. grids: its tables by name. figure: an SVG element, empty without one."""

    name: str
    title: str
    grids: Mapping[str, Grid]
    figure: Markup
    notes: Sequence[str]
    refusal: str | None


def page(
    results: Results, board: Leaderboard, exhibits: Sequence[Exhibit], drawings: Mapping[str, str] | None = None
) -> str:
    """The whole page; the same records give the same text. drawings: SVG files of exhibits by name, if they are there.

    Text from outside (names of methods, questions, errors) is escaped: it is never markup and never script.
    """
    environment = Environment(
        loader=PackageLoader("kdbench.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"arrow": lambda text: str(text).replace("->", "→")}
    scripts = [Markup(script) for script in (_plotly(board), "\n".join(map(_template, SCRIPTS))) if script]
    return environment.get_template("page.html.jinja").render(
        **_words(results, board), **_tables(results, board), policy=_policy(scripts), scripts=scripts,
        css=Markup(_template("page.css")), data=Markup(embedded(page_data(results, board))),
        parts=[_part(exhibit, (drawings or {}).get(exhibit.name)) for exhibit in exhibits],
    )  # fmt: skip


def _words(results: Results, board: Leaderboard) -> dict[str, Any]:
    return {
        "name": str(results.study.get("study", "study")), "question": str(results.study.get("question") or ""),
        "partial": captions.partial(board), "has_final": board.has_final,
        "notes": captions.notes(results, board), "best": captions.BEST,
        "unranked": captions.unranked(board), "provenance": captions.provenance(results),
        "caption": captions.figure(results, board) if board.has_final else "",
    }  # fmt: skip


def _tables(results: Results, board: Leaderboard) -> dict[str, Any]:
    search = search_summary(results)
    rows = {name: board.of(name) for name in results.tables}
    given = {name: [row for row in board.fairness if table_name(row.pair) == name] for name in results.tables}
    fairness = {name: fairness_table(group) for name, group in given.items()}
    found = {name: [row for row in search if table_name(row.pair) == name] for name in results.tables}
    return {
        "board": leaderboard_grid(list(rows), list(rows.values())), "tables": results.tables,
        "students": _distinct(row.student for row in board.rows),
        "methods": _distinct(row.method for row in board.rows),
        "fairness": [(name, grid(table), same, exceptions) for name, (table, same, exceptions) in fairness.items()],
        "search": {name: grid(search_table(group, given[name])) for name, group in found.items() if group},
    }  # fmt: skip


def _distinct(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]


def _part(exhibit: Exhibit, drawing: str | None) -> Part:
    """The figure becomes an element whose colours follow the page's; matplotlib has escaped the text in it."""
    image = drawing or _drawn(exhibit)
    figure = own_names(inline_svg(image), exhibit.name) if image else ""
    grids = {name: grid(table) for name, table in exhibit.tables.items() if table.rows}
    return Part(exhibit.name, exhibit.title, grids, Markup(figure), exhibit.notes, exhibit.refusal)


def _drawn(exhibit: Exhibit) -> str:
    if exhibit.figure is None or exhibit.refusal:
        return ""
    with style():
        return svg(exhibit.figure())


def own_names(svg: str, prefix: str) -> str:
    """An SVG element whose ids start with `prefix`, so that several of them can stand in one page."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _plotly(board: Leaderboard) -> str:
    """plotly.js, with its licence; nothing where there is nothing to draw."""
    if not board.has_final:
        return ""
    from plotly.offline import get_plotlyjs  # takes a while to import

    return str(get_plotlyjs())


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy: these scripts by their hash and no others, no connection anywhere."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return POLICY.format(scripts=" ".join(f"'sha256-{value}'" for value in hashes))
