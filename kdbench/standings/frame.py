"""The merged tables for programs: one line per row in full precision, and everything as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdbench.record import PROTOCOL
from kdbench.report.frames import rounded
from kdbench.standings.conditions import TITLES
from kdbench.standings.entry import Entry
from kdbench.standings.merge import Line, MergedTable, Standings

SCHEMA = 1


def standings_frame(standings: Standings) -> pd.DataFrame:
    """One line per row of every table, in the order of the page."""
    return pd.DataFrame([line for number, table in enumerate(standings.tables, 1) for line in _lines(number, table)])


def _lines(number: int, table: MergedTable) -> list[dict[str, Any]]:
    return [_line(number, table.title, line) for line in table.lines]


def _line(number: int, title: str, line: Line) -> dict[str, Any]:
    row, first, gap = line.row, line.entries[0], line.behind
    made = [entry.submission for entry in line.entries if entry.submission]
    return {
        "table": number, "title": title, "rank": line.rank, "kind": row.kind, "method": row.method,
        "submission": line.submission, "student": row.student, "settings": row.settings,
        "status": line.status.word if row.kind == "student" else "",
        "seeds_finished": len(row.scores), "seeds_started": row.runs, "test_top1_pct": row.score,
        "test_top1_pct_low": row.interval.low, "test_top1_pct_high": row.interval.high,
        "behind_first_pct": gap and gap.mean, "behind_first_pct_low": gap and gap.interval.low,
        "behind_first_pct_high": gap and gap.interval.high, "behind_first_paired": gap and gap.paired,
        "params": row.value("params"), "latency_b1_p50_ms": row.value("latency_b1_p50_ms"),
        "latency_conditions": row.latency_conditions, "latency_comparable": line.latency_comparable,
        "on_front_params": line.on_front, "failures": sum(row.failures.values()),
        "not_ranked_because": "; ".join(row.unranked) if line.rank is None else "",
        "reproductions": "; ".join(line.status.notes), "study": first.study, "pair": row.pair,
        "authors": ", ".join(dict.fromkeys(author for entry in line.entries for author in entry.authors)),
        "url": " ".join(dict.fromkeys(s.url for s in made if s.url)),
        "code": " ".join(dict.fromkeys(s.code for s in made if s.code)),
        "row": row.id, "records": " ".join(row.keys),
    }  # fmt: skip


def standings_json(standings: Standings) -> dict[str, Any]:
    """Everything that the page says, as plain values."""
    said: dict[str, Any] = _plain({
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "submissions": [_entry(entry) for entry in standings.entries],
        "tables": [_table(number, table) for number, table in enumerate(standings.tables, 1)],
        "not_ranked_together": [
            {"first": c.first, "second": c.second, "tables": c.tables, "cells": c.cells, "text": str(c)}
            for c in standings.comparisons
        ],
        "notices": standings.notices,
        "refused": [{"place": refused.place, "reason": refused.reason} for refused in standings.refused],
    })  # fmt: skip
    return said


def _entry(entry: Entry) -> dict[str, Any]:
    made = entry.submission
    return {"name": entry.label, "study": entry.study, "submission": made.to_json() if made else None}


def _table(number: int, table: MergedTable) -> dict[str, Any]:
    return {
        "table": number, "title": table.title,
        "members": [{"submission": member.entry.label, "table": member.table} for member in table.members],
        "conditions": {TITLES[name]: value for name, value in table.cells.items()},
        "notes": table.notes, "rows": _lines(number, table),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Plain values with numbers rounded as in the tables, and None for what is unknown."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else None
    return value
