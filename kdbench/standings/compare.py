"""Studies beside each other: what another setting, such as fewer labels, does to every method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from kdbench.errors import KdbenchError
from kdbench.labels import plural, value_label
from kdbench.report import captions
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Row, preferred
from kdbench.report.over_seeds import bounds, estimate_cell
from kdbench.report.tables import NONE, Cell, Column, Table, difference_cell
from kdbench.standings.compare_figure import compare_figure
from kdbench.standings.entry import Entry
from kdbench.study.diff import FREE

NAME = "compare"
NO_SETTING = (*FREE, "provenance")
GENERAL = (
    "Mean test top-1 accuracy of the last epoch over training seeds, with its bootstrap 95 % interval. "
    f"{captions.COVERAGE} Δ scratch: difference to the same student trained by scratch in % points, paired by seed; ‡ "
    "unpaired.",
    "Bold: the best ranked row of its column. Underlined: the interval of the difference to it holds 0. A column has "
    "the ranks of its own study; columns are shown beside each other and not ranked against each other.",
)

Place = tuple[str, str]  # method and student


@dataclass(frozen=True)
class Side:
    """One leaderboard of one study: a column. name: its heading. changed: its value of each setting that differs."""

    name: str
    entry: Entry
    table: str
    changed: Mapping[str, Any]
    rows: Mapping[Place, Row]

    def first(self, place: Place) -> bool:
        """Whether no ranked row of the column is better."""
        return place in self.rows and self.rows[place].rank == 1


@dataclass(frozen=True)
class Comparison:
    """Columns side by side, and the places in order: teachers, then by mean accuracy, then those that a side lacks."""

    title: str
    sides: tuple[Side, ...]
    places: tuple[Place, ...]

    def found(self, place: Place) -> list[Row | None]:
        """The row of each side."""
        return [side.rows.get(place) for side in self.sides]

    def is_teacher(self, place: Place) -> bool:
        """Whether it is a network that others learn from."""
        return any(row is not None and row.kind == "teacher" for row in self.found(place))

    @property
    def students(self) -> set[str]:
        """The students of all rows; where there is one, no row needs to name it."""
        return {place[1] for place in self.places if not self.is_teacher(place)}


def compare(entries: Sequence[Entry]) -> Comparison:
    """Put the leaderboards of studies beside each other. Raise KdbenchError for fewer than two of them."""
    changed = differing([entry.results.study for entry in entries])
    sides = [
        Side(_name(entry, table, own), entry, table, own, _rows(entry, table))
        for entry, own in zip(entries, changed, strict=True)
        for table in entry.results.tables
    ]
    if len(sides) < 2:
        raise KdbenchError(
            f"nothing to compare: got {plural(len(sides), 'leaderboard')}. Give the folders of two studies or more."
        )
    numbers = next((name for name in changed[0] if all(_is_number(own[name]) for own in changed)), None)
    sides.sort(key=lambda side: (side.changed[numbers] if numbers else 0, side.entry.label, side.table))
    places = dict.fromkeys(place for side in sides for place in side.rows)
    made = Comparison(" and ".join(dict.fromkeys(side.entry.label for side in sides)), tuple(sides), tuple(places))
    return replace(made, places=tuple(sorted(places, key=lambda place: _order(made, place))))


def differing(studies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each study, the fields by dotted name that all have and not all alike; those that decide no training aside."""
    flat = [dict(_leaves({name: part for name, part in study.items() if name not in NO_SETTING})) for study in studies]
    common = [name for name in flat[0] if all(name in other for other in flat)]
    names = [name for name in common if any(other[name] != flat[0][name] for other in flat)]
    return [{name: own[name] for name in names} for own in flat]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(entry: Entry, table: str, changed: Mapping[str, Any]) -> str:
    """`data.train=500` where that is all that differs, else the study; the pair too where a study has several."""
    only = [f"{name}={value_label(value)}" for name, value in changed.items()]
    name = only[0] if len(only) == 1 else entry.label
    return f"{name}, {table}" if len(entry.results.tables) > 1 else name


def _rows(entry: Entry, table: str) -> dict[Place, Row]:
    """By method and student, the row that validation prefers."""
    found: dict[Place, list[Row]] = {}
    for row in entry.board.of(table):
        if row.kind != "missing":
            found.setdefault((row.method, row.student), []).append(row)
    return {place: preferred(rows) for place, rows in found.items()}


def _order(comparison: Comparison, place: Place) -> tuple[bool, int, float, Place]:
    found = comparison.found(place)
    scores = [row.score for row in found if row is not None and math.isfinite(row.score)]
    return (
        not comparison.is_teacher(place),
        found.count(None),
        -sum(scores) / len(scores) if scores else math.inf,
        place,
    )


def exhibit(comparison: Comparison) -> Exhibit:
    """The comparison as a table, a frame, a figure and notes."""
    frame = pd.DataFrame([_line(side, place) for place in comparison.places for side in comparison.sides])
    return Exhibit(
        NAME, comparison.title, {"": _table(comparison)}, frame, partial(_figure, comparison), tuple(_notes(comparison))
    )


def _table(comparison: Comparison) -> Table:
    several = len(comparison.students) > 1
    sides, gains = comparison.sides, any(row.differences for side in comparison.sides for row in side.rows.values())
    columns = (
        Column("Method", numeric=False),
        *([Column("Student", numeric=False)] if several else []),
        *(Column(side.name, "mean test top-1 accuracy in %", metric="top1_pct") for side in sides),
        *([Column(f"Δ scratch, {side.name}", "% points") for side in sides] if gains else []),
    )
    cells, kinds = [], []
    for place in comparison.places:
        found = comparison.found(place)
        cells.append((
            *([Cell(place[0]), Cell(place[1] or NONE)] if several else [Cell(_word(comparison, place))]),
            *(_score_cell(side, place) for side in sides),
            *([difference_cell(row.differences.get("scratch") if row else None) for row in found] if gains else []),
        ))  # fmt: skip
        ranked = any(row is not None and row.rank for row in found)
        kinds.append("teacher" if comparison.is_teacher(place) else "student" if ranked else "unranked")
    return Table(columns, tuple(cells), tuple(kinds))


def _score_cell(side: Side, place: Place) -> Cell:
    row = side.rows.get(place)
    if row is None:
        return Cell(NONE)
    cell = estimate_cell(row.score, row.interval)
    best = side.first(place)
    return Cell(cell.text, cell.extra, best=best, near=row.within_best and not best)


def _line(side: Side, place: Place) -> dict[str, Any]:
    row = side.rows.get(place)
    interval, gain = (row.interval, row.differences.get("scratch")) if row else (None, None)
    return {
        "method": place[0], "student": place[1], "study": side.entry.label, "table": side.table, **side.changed,
        "kind": row.kind if row else "missing", "rank": row.rank if row else None, "n": len(row.scores) if row else 0,
        "test_top1_pct": row.score if row else math.nan,
        "test_top1_pct_low": interval and interval.low, "test_top1_pct_high": interval and interval.high,
        **(bounds("gain_over_scratch_pct", gain.mean, gain.interval) if gain else
           dict.fromkeys(f"gain_over_scratch_pct{end}" for end in ("", "_low", "_high"))),
        "within_best": bool(row and row.within_best),
        "not_ranked_because": "; ".join(row.unranked) if row else "not in this study",
        "row": row.id if row else "",
    }  # fmt: skip


def _word(comparison: Comparison, place: Place) -> str:
    """The method, with its network where that is not the same for all."""
    alone = len(comparison.students) == 1 and not comparison.is_teacher(place)
    return place[0] if alone else " ".join(filter(None, place))


def _figure(comparison: Comparison) -> Any:
    students = [place for place in comparison.places if not comparison.is_teacher(place)]
    teachers = [place for place in comparison.places if comparison.is_teacher(place) and place[0] == "teacher"]
    return compare_figure(
        [_word(comparison, place) for place in students],
        {side.name: [side.rows.get(place) for place in students] for side in comparison.sides},
        {side.name: [(_word(comparison, p), side.rows[p].score) for p in teachers if p in side.rows]
         for side in comparison.sides},
    )  # fmt: skip


def _notes(comparison: Comparison) -> Iterator[str]:
    yield from GENERAL
    for side in comparison.sides:
        ranked = [row for row in side.rows.values() if row.rank]
        seeds = " or ".join(sorted({str(len(row.scores)) for row in ranked}, key=int))
        said = "; ".join(f"{name}: {value_label(value)}" for name, value in side.changed.items())
        n = f"{plural(len(ranked), 'ranked row')}, n = {seeds} training seeds a row" if ranked else "no row is ranked"
        yield f"{side.name}: {n}{f'. What differs: {said}' if said else ''}."
        for row in side.rows.values():
            if row.kind == "student" and row.unranked:
                yield f"Not ranked in {side.name}: {row.method} {row.student}: {'; '.join(row.unranked)}."
    for entry in dict.fromkeys(side.entry.label for side in comparison.sides):
        board = next(side.entry.board for side in comparison.sides if side.entry.label == entry)
        if text := captions.partial(board):
            yield f"{entry}: {text}"
