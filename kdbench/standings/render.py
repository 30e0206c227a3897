"""The standings as Markdown, as LaTeX for a paper, and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdbench.record import PROTOCOL
from kdbench.report.exhibit import Exhibit
from kdbench.report.latex import PACKAGES, latex, tabular
from kdbench.report.render import markdown
from kdbench.standings.merge import Standings
from kdbench.standings.view import COLUMNS, GENERAL, STATUS_WORDS, counts, shown


def render(name: str, standings: Standings) -> str:
    """Fill `templates/standings.<name>.jinja`; name: md, tex or html."""
    environment = _environment(name)
    inlined = _inlined(environment) if name == "html" else {}
    return environment.get_template(f"standings.{name}.jinja").render(
        columns=COLUMNS, tables=[shown(table) for table in standings.tables], standings=standings,
        counts=counts(standings), status_words=STATUS_WORDS, protocol=PROTOCOL,
        packages=PACKAGES, general=GENERAL, **inlined,
    )  # fmt: skip


def render_comparison(name: str, comparison: Exhibit) -> str:
    """Fill `templates/compare.<name>.jinja`; name: md or tex."""
    return _environment(name).get_template(f"compare.{name}.jinja").render(shown=comparison, packages=PACKAGES)


def _environment(name: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("kdbench.report"), autoescape=name == "html", undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    if name == "tex":  # jinja's own marks are LaTeX's braces
        environment = environment.overlay(
            block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
            comment_start_string="<#", comment_end_string="#>",
        )  # fmt: skip
    environment.filters |= {"md": markdown, "tex": latex, "tabular": lambda table: "\n".join(tabular(table))}
    return environment


def _inlined(environment: Environment) -> dict[str, Any]:
    """Style and script of the page, and their hashes: its policy lets nothing else run."""
    out: dict[str, Any] = {}
    for kind, file in (("style", "standings.css"), ("script", "standings.js")):
        loader = environment.loader
        text = loader.get_source(environment, file)[0] if loader else ""
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        out |= {
            kind: Markup(text),
            f"{kind}_hash": f"sha256-{digest}",
        }  # our own files, with nothing of a study in them
    return out
