"""`kdbench show`: the story of a row or a record, or the rows that fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from kdbench.report.leaderboard import Row
from kdbench.trace.explain import explain_record, explain_row
from kdbench.trace.locate import Report, listing, locate
from kdbench.trace.numbers import Source
from kdbench.trace.view import print_record, print_row

WIDTH = 120  # of tables where the output is no terminal


def show(text: str, results: Path, as_json: bool) -> None:
    """Print what `text` names. Raise KdbenchError that says what there is if nothing fits."""
    found = locate(text, results)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if found.record is not None:
        story = explain_record(*found.record)
    elif len(found.rows) == 1:
        story = explain_row(Source(*found.rows[0]))
    elif as_json:
        print(json.dumps([_brief(*place) for place in found.rows], indent=1))
        return
    else:
        print(f"{len(found.rows)} rows fit '{text}'; give the id of one:\n{listing(found)}")
        return
    if as_json:
        print(json.dumps(story, indent=1, allow_nan=False))
    else:
        (print_row if found.record is None else print_record)(story, console)


def _brief(report: Report, row: Row) -> dict[str, str]:
    """One of several rows, enough to choose it."""
    return {"row": row.id, "study": report.study, "pair": row.pair, "method": row.method, "student": row.student,
            "settings": row.settings}  # fmt: skip
