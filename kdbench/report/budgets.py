"""The exhibit `budgets`: the best row within each limit of cost, and the knee of each front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kdbench.labels import plural
from kdbench.record import metric
from kdbench.report import stats
from kdbench.report.exhibit import Exhibit
from kdbench.report.fronts import Front, cost, labels
from kdbench.report.fronts_table import front_title, short_title
from kdbench.report.indicators import amount
from kdbench.report.leaderboard import Leaderboard, Row, difference, holds_zero
from kdbench.report.pareto import knee
from kdbench.report.tables import NONE, Cell, Column, Table, number_text
from kdbench.study.sections import Pareto

TITLE = "Best within a budget, and the knee of each front"
SHOWN = 6  # rows that a cell names before it counts the others


@dataclass(frozen=True)
class Cut:
    """One line: what was asked, the row that answers it, and the rows that may be as good.

    row: None where no ranked row is within the limits. alike: rows within them whose difference to it has an interval
    that holds 0. unknown: how many rows have too few seeds to say. within: how many rows were within the limits.
    """

    table: str
    kind: str
    asked: str
    row: Row | None
    alike: tuple[Row, ...] = ()
    unknown: int = 0
    within: int = 0


def budgets_exhibit(board: Leaderboard, tables: Sequence[str], fronts: Sequence[Front], asked: Pareto) -> Exhibit:
    """The cuts of every table. tables: names in order."""
    cuts, flat = [], []
    for table in tables:
        ranked = [row for row in board.of(table) if row.rank and row.scores]
        cuts += [_within(table, ranked, budget) for budget in asked.budgets if ranked]
        for front in (front for front in fronts if front.table == table):
            place = knee(front.points, front.objectives)
            if place is None:
                flat.append(f"{table}, {front_title(front)}" if len(tables) > 1 else front_title(front))
            else:
                cuts.append(
                    Cut(table, "knee", f"knee of {front_title(front)}", front.rows[place], within=len(front.rows))
                )
    if not cuts:
        why = (
            "The study gives no pareto.budgets, such as [{params: 3.0e5}], and no reported front has a knee: that "
            "takes three points of which one bulges towards the ideal."
        )
        return Exhibit("budgets", TITLE, refusal=why)
    names = [table for table in tables if any(cut.table == table for cut in cuts)]
    costs = _costs(asked, fronts, cuts)
    shown = {name: _table([cut for cut in cuts if cut.table == name], costs) for name in names}
    return Exhibit(
        "budgets", TITLE, shown, pd.DataFrame([_line(c, costs) for c in cuts]), None, _notes(asked, cuts, flat)
    )


def _within(table: str, ranked: Sequence[Row], budget: Mapping[str, float]) -> Cut:
    """The ranked row of best mean accuracy within a budget, ends included."""
    inside = [row for row in ranked if all(cost(row, name) <= limit for name, limit in budget.items())]
    words = " and ".join(f"{amount(name, limit)} {metric(name).title}" for name, limit in budget.items())
    best = min(inside, key=lambda row: row.rank or 0, default=None)
    if best is None:
        return Cut(table, "budget", f"up to {words}", None)
    others = [row for row in inside if row is not best]
    intervals = [difference(row.scores, best.scores).interval for row in others]
    alike = tuple(row for row, interval in zip(others, intervals, strict=True) if holds_zero(interval))
    unknown = sum(interval.low is None for interval in intervals)
    return Cut(table, "budget", f"up to {words}", best, alike, unknown, len(inside))


def _costs(asked: Pareto, fronts: Iterable[Front], cuts: Iterable[Cut]) -> list[str]:
    """The costs that the budgets and the fronts speak of, without those that no row has."""
    names = [name for budget in asked.budgets for name in budget]
    names += [name for front in fronts for name in front.names if metric(name).direction == "min"]
    rows = [cut.row for cut in cuts if cut.row is not None]
    return [n for n in dict.fromkeys(names) if n not in ("nll", "ece_pct") and any(cost(r, n) < math.inf for r in rows)]


def _table(cuts: Sequence[Cut], costs: Sequence[str]) -> Table:
    columns = [
        Column("Asked", numeric=False), Column("Method", numeric=False), Column("Student", numeric=False),
        Column("Top-1 % ↑ [95 %]", "mean test accuracy over seeds", metric="top1_pct"),
        *(Column(f"{short_title(name)}{_unit(name)}", metric(name).title, metric=name) for name in costs),
        Column("Not distinguishable from it", "rows within the budget whose difference to it may be 0", False),
    ]  # fmt: skip
    return Table(tuple(columns), tuple(_cells(cut, costs) for cut in cuts), ("student",) * len(cuts))


def _unit(name: str) -> str:
    return f" {metric(name).unit}" if metric(name).unit == "ms" else ""


def _cells(cut: Cut, costs: Sequence[str]) -> tuple[Cell, ...]:
    row = cut.row
    if row is None:
        return (Cell(cut.asked), Cell("no ranked row"), *(Cell(NONE) for _ in range(len(costs) + 3)))
    low, high = row.interval.low, row.interval.high
    extra = "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return (
        Cell(cut.asked), Cell(row.method), Cell(row.student or NONE), Cell(number_text("top1_pct", row.score), extra),
        *(Cell(number_text(name, cost(row, name))) for name in costs), Cell(_alike(cut)),
    )  # fmt: skip


def _alike(cut: Cut) -> str:
    if cut.kind == "knee":
        return NONE
    names = labels(cut.alike)
    parts = list(names[:SHOWN]) + ([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])
    parts += [f"unknown of {plural(cut.unknown, 'row')}: too few seeds"] if cut.unknown else []
    return "; ".join(parts) or "none"


def _line(cut: Cut, costs: Sequence[str]) -> dict[str, object]:
    row = cut.row
    return {
        "table": cut.table, "kind": cut.kind, "asked": cut.asked, "row": row.id if row else None,
        "method": row.method if row else None, "student": row.student if row else None,
        "settings": row.settings if row else None, "test_top1_pct": row.score if row else None,
        "test_top1_pct_low": row.interval.low if row else None,
        "test_top1_pct_high": row.interval.high if row else None,
        **{name: cost(row, name) if row and cost(row, name) < math.inf else None for name in costs},
        "rows_within": cut.within, "not_distinguishable": " ".join(other.id for other in cut.alike),
        "unknown": cut.unknown,
    }  # fmt: skip


def _notes(asked: Pareto, cuts: Sequence[Cut], flat: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if asked.budgets:
        notes.append(
            "Within a budget: the ranked row of the best mean test accuracy whose costs are all up to the limits; a "
            "row whose latency was not measured under the common conditions is within no limit of latency. It is the "
            "best of several by their test means, so its own mean flatters it; the interval does not correct for that."
        )
        notes.append(
            "Not distinguishable: the difference to that row, paired where seeds are shared, has a bootstrap 95 % "
            f"interval that holds 0 (at least {stats.MINIMUM} seeds; not corrected for multiple comparisons)."
        )
    if any(cut.kind == "knee" for cut in cuts):
        notes.append(
            "Knee: the row of a reported front that lies farthest from the line (of three objectives: the plane) "
            "through the front's extreme rows, towards the ideal (Das 1999, doi:10.1007/BF01195985). It does not "
            "depend on how the objectives are normalised. It is of means: noise of the seeds can move it."
        )
    if flat:
        notes.append(
            f"No knee: {'; '.join(flat)}: one row is extreme in several objectives, or none bulges towards the ideal."
        )
    return tuple(notes)
