"""What the search reached, on validation: its front, and how far each method got in its best, median and worst repeat.

One training each, and chosen from many: nothing here is comparable with the reported fronts of the test split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import pandas as pd

from kdbench.labels import model_label, settings_label
from kdbench.record import TrialRecord, metric
from kdbench.report.exhibit import Exhibit
from kdbench.report.fronts_figure import MOST_PANELS, attainment_figure
from kdbench.report.fronts_table import short_title
from kdbench.report.indicators import hypervolume_share
from kdbench.report.load import Results, table_name
from kdbench.report.pareto import Box, box, maximise, on_front
from kdbench.report.search import objective_title, search_objectives, searched
from kdbench.report.tables import NONE, Cell, Column, Table, number_text
from kdbench.study.sections import Pareto

FRONT_TITLE = "Search front (validation)"
TITLE = "Attainment surfaces of the search (validation)"
SURFACES = ("best", "median", "worst")


@dataclass(frozen=True)
class Attainment:
    """The attainment surfaces of one method over its search repeats.

    repeats: how many were run, those in which nothing finished included. levels: by surface, in how many of them it was
    attained at least. surfaces: its points (n, d), empty where it was attained in fewer.
    """

    table: str
    method: str
    objectives: tuple[str, ...]
    repeats: int
    levels: Mapping[str, int]
    surfaces: Mapping[str, np.ndarray]


def attain(sets: Sequence[np.ndarray], names: Sequence[str], level: int) -> np.ndarray:
    """The points (n, d) that were attained in at least `level` of some sets of points (m, d), which may be empty.

    A set attains what one of its points weakly dominates. Source: Grunert da Fonseca et al. 2001,
    doi:10.1007/3-540-44719-9_15; moocore.eaf.
    """
    full = [points for points in sets if len(points)]
    if level > len(full):
        return np.empty((0, len(names)))
    signs = np.where(maximise(names), -1.0, 1.0)
    places = np.repeat(np.arange(len(full)), [len(points) for points in full])
    found = moocore.eaf(np.concatenate(full) * signs, places, percentiles=[100 * level / len(full)])
    return np.asarray(found[:, :-1]) * signs


def attainment_exhibit(results: Results, asked: Pareto) -> Exhibit:
    """Best, median and worst attainment surface of each method over the repeats of its search."""
    names = search_objectives(results)
    if (why := _one_objective(names)) is not None:
        return Exhibit("attainment", TITLE, refusal=why)
    found = [attainment for attainment in _attainments(results, names) if attainment.repeats > 1]
    if not found:
        why = f"The study's search has {results.section('search').get('repeats', 1)} repeat; at least 2 are needed."
        return Exhibit("attainment", TITLE, refusal=f"{why} Set search.repeats.")
    space = box(names, asked.reference, asked.ideal)
    known = space if isinstance(space, Box) else None
    tables = {
        name: _table([a for a in found if a.table == name], known) for name in dict.fromkeys(a.table for a in found)
    }
    frame = pd.DataFrame([line for attainment in found for line in _lines(attainment)])
    drawn = len(names) == 2 and len(found) <= MOST_PANELS
    figure = (lambda: attainment_figure(found, results.methods)) if drawn else None
    notes = [_note(names, found), _share_note(space)]
    if not drawn:
        reason = f"more than {MOST_PANELS} panels" if len(names) == 2 else "more than two objectives"
        notes.append(f"Not drawn: {reason}.")
    return Exhibit("attainment", TITLE, tables, frame, figure, tuple(notes))


def search_front_exhibit(results: Results) -> Exhibit:
    """The finished search trials that no other of their table beats in the objectives of the search."""
    names = search_objectives(results)
    if (why := _one_objective(names)) is not None:
        return Exhibit("search-fronts", FRONT_TITLE, refusal=why)
    tables, lines = {}, []
    for table in results.tables:
        trials = [r for r in _finished(results, names) if table_name(results.pair(r)) == table]
        flags = on_front(_points(trials, names), names)
        front = [trial for trial, flag in zip(trials, flags, strict=True) if flag]
        front.sort(key=lambda r: (*(r.result[name] for name in names[1:]), r.spec.row, r.key))
        if front:
            tables[table] = _front_table(results, front, names)
            lines += [_front_line(results, table, record, names) for record in front]
    if not tables:
        return Exhibit("search-fronts", FRONT_TITLE, refusal="No search trial has finished with all objectives.")
    note = (
        "Finished search trials that no other trial of the table beats in "
        f"{' and '.join(map(objective_title, names))}. Each is one training, and the best of many by what it is listed "
        "for, so it is optimistic; nothing of it is comparable with the reported fronts, which are of test means."
    )
    return Exhibit("search-fronts", FRONT_TITLE, tables, pd.DataFrame(lines), None, (note,))


def _one_objective(names: Sequence[str]) -> str | None:
    if len(names) > 1:
        return None
    return f"The search has one objective, {names[0]}, so it has no front. Set search.objectives to two or three."


def _finished(results: Results, names: Sequence[str]) -> list[TrialRecord]:
    trials = [r for r in results.phase("search") if r.status == "finished"]
    return [r for r in trials if all(math.isfinite(r.result.get(name) or 0.0) and name in r.result for name in names)]


def _points(records: Sequence[TrialRecord], names: Sequence[str]) -> np.ndarray:
    return np.array([[record.result[name] for name in names] for record in records], dtype=np.float64)


def _attainments(results: Results, names: tuple[str, ...]) -> list[Attainment]:
    finished = {record.key for record in _finished(results, names)}
    groups: dict[tuple[str, str], dict[object, list[TrialRecord]]] = {}
    for record in results.phase("search"):
        own = groups.setdefault((table_name(results.pair(record)), record.spec.row), {})
        own.setdefault(record.spec.slot.get("repeat", 0), []).extend([record] if record.key in finished else [])
    out = []
    for table in results.tables:
        for method in results.methods:
            if repeats := groups.get((table, method)):
                sets = [_points(records, names) for records in repeats.values()]
                n = len(sets)
                levels = {"best": 1, "median": (n + 1) // 2, "worst": n}
                surfaces = {surface: attain(sets, names, level) for surface, level in levels.items()}
                out.append(Attainment(table, method, names, n, levels, surfaces))
    return out


def _table(found: Sequence[Attainment], space: Box | None) -> Table:
    what = "share of the box between reference and ideal" if space else "points of the surface"
    columns = [
        Column("Method", numeric=False), Column("Repeats", "independent searches"),
        *(Column(surface.capitalize(), f"{what}: attained in {WORDS[surface]}") for surface in SURFACES),
    ]  # fmt: skip
    cells = [
        (Cell(a.method), Cell(str(a.repeats)), *(Cell(_size(a.surfaces[s], space)) for s in SURFACES)) for a in found
    ]
    return Table(tuple(columns), tuple(cells), ("student",) * len(cells))


WORDS = {"best": "at least one repeat", "median": "at least half of them", "worst": "all of them"}


def _size(points: np.ndarray, space: Box | None) -> str:
    if not len(points):
        return NONE
    return str(len(points)) if space is None else f"{hypervolume_share(space.normalised(points)):.4f}"


def _lines(attainment: Attainment) -> list[dict[str, object]]:
    return [
        {
            "table": attainment.table, "method": attainment.method, "surface": surface,
            "attained_in": attainment.levels[surface], "repeats": attainment.repeats,
            **{name: float(value) for name, value in zip(attainment.objectives, point, strict=True)},
        }
        for surface, points in attainment.surfaces.items() for point in points
    ]  # fmt: skip


def _note(names: Sequence[str], found: Sequence[Attainment]) -> str:
    counts = sorted({a.repeats for a in found})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Validation results of the search in {' and '.join(map(objective_title, names))}. A surface holds what was "
        "attained in at least one (best), in at least half (median) and in all (worst) of a method's search repeats "
        f"(n = {n}, the unit of replication; a repeat in which no trial finished attains nothing). Source: "
        "empirical attainment function, Grunert da Fonseca et al. 2001, doi:10.1007/3-540-44719-9_15; moocore.eaf."
    )


def _share_note(space: Box | str) -> str:
    if isinstance(space, str):
        return f"Numbers: points of the surface; no volume, because {space}."
    return (
        "Numbers: the share of the box between the study's reference point and its ideal that lies behind the surface."
    )


def _front_table(results: Results, front: Sequence[TrialRecord], names: Sequence[str]) -> Table:
    columns = [
        Column("Method", numeric=False), Column("Repeat"), Column("Trial"), Column("Student", numeric=False),
        Column("Hyper-parameters", numeric=False),
        *(Column(_heading(name), objective_title(name)) for name in names),
    ]  # fmt: skip
    cells = [
        (
            Cell(r.spec.row), Cell(str(r.spec.slot.get("repeat", NONE))), Cell(str(r.spec.slot.get("trial", NONE))),
            Cell(model_label(r.spec.model)), Cell(settings_label(searched(results, r)) or NONE),
            *(Cell(number_text(name, r.result[name])) for name in names),
        )
        for r in front
    ]  # fmt: skip
    return Table(tuple(columns), tuple(cells), ("student",) * len(cells))


def _heading(name: str) -> str:
    unit = " %" if metric(name).unit == "%" else ""
    return f"{'Val ' if name.startswith('val_') else ''}{short_title(name)}{unit}"


def _front_line(results: Results, table: str, record: TrialRecord, names: Sequence[str]) -> dict[str, object]:
    slot = record.spec.slot
    return {
        "table": table, "pair": results.pair(record), "method": record.spec.row, "repeat": slot.get("repeat"),
        "trial": slot.get("trial"), "student": model_label(record.spec.model),
        "settings": settings_label(searched(results, record)), **{name: record.result[name] for name in names},
        "key": record.key,
    }  # fmt: skip
