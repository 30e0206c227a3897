"""Under what the numbers of a table came about: two tables are ranked together if none of these differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.labels import data_label
from kdbench.record import PROTOCOL
from kdbench.report.fairness import COMPARED, Fairness, majority, planned_seeds
from kdbench.report.load import Results, table_name
from kdbench.standings.entry import Entry

UNKNOWN = "not known"
NONE = "none"
# Of the fairness table all cells but one: what a training ran on is compared by its precision alone.
TITLES: dict[str, str] = {
    "protocol": "protocol",
    **{name: title for name, title in COMPARED.items() if name not in ("hardware", "data_hash", "teacher_hash")},
    "precision": "precision used",
    "data_hash": "images and split (hash)",
    "test_hash": "test images (hash)",
    "teacher_hash": "teacher's weights (hash)",
    "final_seeds": "final seeds",
}


@dataclass(frozen=True)
class Conditions:
    """One table of one entry: what its rows have in common, by name of TITLES.

    data: what the data are called in titles.
    """

    entry: Entry
    table: str
    data: str
    cells: dict[str, str]

    @property
    def known(self) -> bool:
        """Whether nothing is missing that would have to be compared."""
        return UNKNOWN not in self.cells.values()

    def differing(self, other: Conditions) -> list[str]:
        """Names of the cells that forbid to rank the two together; one that is not known is like no other."""
        names = [name for name in TITLES if self.cells[name] != other.cells[name] or self.cells[name] == UNKNOWN]
        if "teacher" in names and "teacher_hash" in names:
            names.remove("teacher_hash")  # another network has another hash, which is said already
        return names


def conditions(entry: Entry) -> list[Conditions]:
    """The tables of an entry in the order of its study."""
    return [
        Conditions(entry, table, data_label(entry.results.section("data")), _cells(entry, table))
        for table in entry.results.tables
    ]


def _cells(entry: Entry, table: str) -> dict[str, str]:
    results = entry.results
    rows = [row for row in entry.board.fairness if table_name(row.pair) == table]
    cells = {name: _usual(rows, name) for name in COMPARED}
    hardware = cells.pop("hardware")
    cells |= {
        "protocol": str(PROTOCOL),
        # `precision: auto` and the precision that it turned out to be are one: what was used is a cell of its own
        "training": ", ".join(part for part in parts(cells["training"]) if not part.startswith("precision=")),
        "precision": UNKNOWN if hardware == UNKNOWN else hardware.rpartition(", ")[2],
        "test_hash": _test_hash(entry, table),
        "teacher": NONE if cells["teacher"] == UNKNOWN else cells["teacher"],
        "teacher_hash": _teacher_hash(results, table, cells["teacher_hash"]),
        "search_epochs": NONE if cells["search_trials"] == "0" else cells["search_epochs"],
        "final_seeds": str(planned_seeds(results) or UNKNOWN),
    }
    return {name: cells[name] for name in TITLES}


def _usual(rows: Sequence[Fairness], name: str) -> str:
    """What the rows that are like the others of their pair have in a column, pairs that differ side by side."""
    found = []
    for pair in dict.fromkeys(row.pair for row in rows):
        own = [row for row in rows if row.pair == pair]
        alike = [row.cells[name] for row in own if name not in row.differs]
        value = majority(alike) or majority([row.cells[name] for row in own])
        found += [value] if value is not None else []
    return " / ".join(sorted(set(found))) or UNKNOWN


def _test_hash(entry: Entry, table: str) -> str:
    """The hash of the images that the table's rows were tested on, as their records or those of their teachers say;
    else that of the study's splits."""
    results = entry.results
    own = [r for r in results.phase("final") if table_name(results.pair(r)) == table and r.status == "finished"]
    behind = results.behind(r.spec.teacher for r in own).values()
    found = _one(r.environment.get("test_hash") for r in [*own, *behind])
    return _one([entry.test_hash]) if found == UNKNOWN else found


def _teacher_hash(results: Results, table: str, usual: str) -> str:
    """The file of a published checkpoint, else the weights that the rows learnt from, if from any."""
    for record in results.phase("teacher"):
        if results.role(record.key, table) == "teacher" and record.spec.method_name == "checkpoint":
            return f"checkpoint {str(record.spec.method['sha256'])[:12]}"
    return NONE if usual == UNKNOWN else usual


def parts(cell: str) -> list[str]:
    """`lr=0.1, milestones=[60, 80]` -> its settings, one by one; text of another form is one part."""
    return re.split(r", (?=\w+=)", cell)


def contrast(one: str, other: str) -> tuple[str, str]:
    """Two unlike cells without the settings that they have in common."""
    first, second = parts(one), parts(other)
    left = ", ".join(part for part in first if part not in second)
    right = ", ".join(part for part in second if part not in first)
    return (left or "nothing more", right or "nothing more") if len(first) > 1 or len(second) > 1 else (one, other)


def _one(values: Any) -> str:
    found = {str(value).removeprefix("sha256:")[:12] for value in values if value is not None}
    return " / ".join(sorted(found)) or UNKNOWN
