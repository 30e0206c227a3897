"""The exhibit `indicators`: how good the front of each method and of the whole table is, in one number each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import moocore
import numpy as np
import pandas as pd

from kdbench.labels import count_label, plural, value_label
from kdbench.record import metric
from kdbench.report import stats
from kdbench.report.exhibit import Exhibit
from kdbench.report.fronts import Front
from kdbench.report.fronts_table import front_title
from kdbench.report.pareto import Box, box
from kdbench.report.replicates import REPLICATES
from kdbench.report.stats import Interval
from kdbench.report.tables import Cell, Column, Table
from kdbench.study.sections import Pareto

TITLE = "Quality of the reported fronts"
WHOLE = "all methods"
FEW = Interval(None, None, f"an interval needs at least {stats.MINIMUM} seeds of every row")
TITLES = {
    "hypervolume": (
        "Hypervolume ↑",
        "share of the box between reference and ideal that is dominated; higher is better",
    ),
    "epsilon": ("Epsilon ↓", "additive epsilon to the reference set, normalised objectives; lower is better"),
    "igd_plus": ("IGD+ ↓", "mean distance from the reference set, normalised objectives; lower is better"),
}


@dataclass(frozen=True)
class Quality:
    """The indicators of one set of rows: by name the value of the means, and its interval over seeds."""

    front: Front
    method: str
    rows: tuple[int, ...]
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]


def hypervolume_share(points: np.ndarray) -> float:
    """Dominated share of the unit box, of normalised points (n, d) with less better. moocore.hypervolume."""
    return float(moocore.hypervolume(points, ref=np.ones(points.shape[1])))


def epsilon(points: np.ndarray, reference_set: np.ndarray) -> float:
    """How far points (n, d) must move in every objective to weakly dominate the reference set (m, d); less is better.

    Source: Zitzler et al. 2003, doi:10.1109/TEVC.2003.810758; moocore.epsilon_additive.
    """
    return float(moocore.epsilon_additive(points, ref=reference_set))


def igd_plus(points: np.ndarray, reference_set: np.ndarray) -> float:
    """Mean over the reference set (m, d) of the distance to the points (n, d), counting only where these are worse.

    Source: Ishibuchi et al. 2015, doi:10.1007/978-3-319-15892-1_8; moocore.igd_plus.
    """
    return float(moocore.igd_plus(points, ref=reference_set))


def indicators_exhibit(fronts: Sequence[Front], asked: Pareto) -> Exhibit:
    """Hypervolume, additive epsilon and IGD+ of each method's rows and of all, for every front with a reference."""
    if not fronts:
        return Exhibit("indicators", TITLE, refusal="There is no reported front, so there is nothing to measure.")
    found: list[Quality] = []
    reasons: dict[str, None] = {}
    for front in fronts:
        space = box(front.objectives, asked.reference, asked.ideal)
        if isinstance(space, str):
            reasons[f"{front_title(front)}: {space}, and no reference point is taken from the data."] = None
        else:
            found += qualities(front, space, asked.reference_set)
    if not found:
        return Exhibit("indicators", TITLE, refusal="Not computed. " + " ".join(reasons))
    tables = {name: _table([q for q in found if q.front.table == name]) for name in _tables(found)}
    notes = (*_notes(found, asked), *(f"Not computed: {reason}" for reason in reasons))
    return Exhibit("indicators", TITLE, tables, pd.DataFrame([_line(q) for q in found]), None, notes)


def qualities(front: Front, space: Box, given: Sequence[Mapping[str, float]]) -> list[Quality]:
    """The whole table first, then each method in order of its best row."""
    methods: dict[str, list[int]] = {WHOLE: list(range(len(front.rows)))}
    for i, row in enumerate(front.rows):
        methods.setdefault(row.method, []).append(i)
    points, against = space.normalised(front.points), space.normalised(reference_set(front, given))
    drawn = front.replicates
    if drawn is not None:
        drawn = replace(drawn, means=space.normalised(drawn.means).reshape(drawn.means.shape))
    functions: dict[str, Callable[[np.ndarray], float]] = {
        "hypervolume": hypervolume_share,
        "epsilon": lambda found: epsilon(found, against),
        "igd_plus": lambda found: igd_plus(found, against),
    }
    out = []
    for method, rows in methods.items():
        values = {name: function(points[rows]) for name, function in functions.items()}
        sure = drawn if front.enough[rows].all() else None
        intervals = {name: sure.interval(function, rows) if sure else FEW for name, function in functions.items()}
        out.append(Quality(front, method, tuple(rows), values, intervals))
    return out


def reference_set(front: Front, given: Sequence[Mapping[str, float]]) -> np.ndarray:
    """The study's points that have all objectives of the front; where it gives none, the front of all rows: (m, d)."""
    points = [[point[name] for name in front.names] for point in given if set(front.names) <= set(point)]
    return np.array(points, dtype=np.float64) if points else front.points[front.flags]


def _tables(found: Sequence[Quality]) -> list[str]:
    return list(dict.fromkeys(quality.front.table for quality in found))


def _table(found: Sequence[Quality]) -> Table:
    several = len({quality.front.objectives for quality in found}) > 1
    columns = [
        *([Column("Front", "the objectives", False)] if several else []), Column("Method", numeric=False),
        Column("Rows", "ranked rows of the method"), *(Column(*words) for words in TITLES.values()),
    ]  # fmt: skip
    cells = []
    for quality in found:
        peers = [q for q in found if q.front is quality.front and q.method != WHOLE]
        best = {name: (max if name == "hypervolume" else min)(q.values[name] for q in peers) for name in TITLES}
        numbers = [
            Cell(f"{quality.values[name]:.4f}", _bounds(quality.intervals[name]),
                 quality.method != WHOLE and f"{quality.values[name]:.4f}" == f"{best[name]:.4f}")
            for name in TITLES
        ]  # fmt: skip
        label = [Cell(front_title(quality.front))] if several else []
        cells.append((*label, Cell(quality.method), Cell(str(len(quality.rows))), *numbers))
    return Table(tuple(columns), tuple(cells), ("student",) * len(cells))


def _bounds(interval: Interval) -> str:
    return "" if interval.low is None or interval.high is None else f"[{interval.low:.4f}, {interval.high:.4f}]"


def _line(quality: Quality) -> dict[str, object]:
    out: dict[str, object] = {
        "table": quality.front.table, "front": " ".join(quality.front.names), "method": quality.method,
        "rows": len(quality.rows), "row_ids": " ".join(quality.front.rows[i].id for i in quality.rows),
    }  # fmt: skip
    for name in TITLES:
        interval = quality.intervals[name]
        out |= {name: quality.values[name], f"{name}_low": interval.low, f"{name}_high": interval.high}
    return out


def _notes(found: Sequence[Quality], asked: Pareto) -> tuple[str, ...]:
    fronts = list({id(quality.front): quality.front for quality in found}.values())
    corners: dict[str, str] = {}
    for front in fronts:
        space = box(front.objectives, asked.reference, asked.ideal)
        if isinstance(space, Box):
            ends = zip(space.names, space.best, space.worst, strict=True)
            corners |= {n: f"{metric(n).title} {amount(n, best)} to {amount(n, worst)}" for n, best, worst in ends}
    given = any(set(front.names) <= set(point) for front in fronts for point in asked.reference_set)
    own = any(not any(set(front.names) <= set(point) for point in asked.reference_set) for front in fronts)
    sets = [f"the study's pareto.reference_set of {plural(len(asked.reference_set), 'point')}"] if given else []
    if own:
        sets.append(
            "the non-dominated set of all ranked rows' means, so it is of these data and the whole table is at 0"
        )
    return (
        f"Objectives are normalised by the study, linearly, to 0 at the ideal and 1 at the reference point: "
        f"{'; '.join(corners.values())}. Hypervolume is against the reference point; a row beyond it adds nothing.",
        f"Epsilon (additive) and IGD+ are against {' or '.join(sets)}.",
        f"[Percentile 95 % interval of {REPLICATES:,} bootstrap replicates over training seeds, seed 0], with the "
        "reference set held fixed; a method's set is all of its ranked rows. Bold: the best method of a front.",
    )


def amount(name: str, value: float) -> str:
    """A metric's value with its unit, as a sentence has it: `0.30 M`, `80 %`, `1.5 ms`."""
    unit = metric(name).unit
    return f"{value_label(float(value))} {unit}" if unit in ("%", "ms", "nat", "s") else f"{count_label(value)}{unit}"
