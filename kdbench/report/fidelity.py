"""How closely the students of all rows follow their pair's teacher, whether they learnt from it or not."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kdbench.report.evaluations import Evaluated, counted, evaluated
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results
from kdbench.report.robustness import bounds, by_table, identity, kinds, with_best
from kdbench.report.tables import NONE, Cell, Column, Table, number_text

AGREEMENT, DIVERGENCE = "test_agreement_pct", "test_agreement_kl_nat"
WORDS = (
    "Agreement: share of test images on which student and teacher predict the same class, right or wrong. KL: mean of "
    "KL(teacher || student) at temperature 1. Source: Stanton et al. 2021, arXiv:2106.05945. A student that never saw "
    "the teacher shows how much agreement comes from being right alone."
)


def fidelity(results: Results, board: Leaderboard) -> list[Exhibit]:
    """Agreement with the teacher and the divergence from it; nothing where it was not evaluated."""
    found = evaluated(results, board, AGREEMENT, DIVERGENCE)
    if not found:
        return []
    tables = {name: fidelity_table(rows) for name, rows in by_table(found).items()}
    notes = (WORDS, "Means and bootstrap 95 % intervals over training seeds.", counted(results))
    return [Exhibit("fidelity", "Fidelity to the teacher", tables, fidelity_frame(found), notes=notes)]


def fidelity_table(found: Sequence[Evaluated]) -> Table:
    """One line for each row."""
    columns = (
        Column("Method", numeric=False), Column("Student", numeric=False), Column("n", "seeds evaluated"),
        Column("Agreement % ↑ [95 %]", "top-1 agreement with the teacher"),
        Column("KL nat ↓ [95 %]", "mean KL divergence of the student's predictions from the teacher's"),
    )  # fmt: skip
    cells = []
    for one in found:
        n, gap = len(one.values[AGREEMENT]), one.interval(DIVERGENCE)
        extra = "" if gap.low is None or gap.high is None else f"[{gap.low:.3f}, {gap.high:.3f}]"
        agreement = Cell(number_text(AGREEMENT, one.mean(AGREEMENT)), bounds(one.interval(AGREEMENT)))
        divergence = Cell(number_text(DIVERGENCE, one.mean(DIVERGENCE)), extra)
        cells.append((Cell(one.row.method), Cell(one.row.student or NONE), Cell(str(n)), agreement, divergence))
    return Table(columns, tuple(with_best(found, cells, {3: max, 4: min})), kinds(found))


def fidelity_frame(found: Sequence[Evaluated]) -> pd.DataFrame:
    """One line for each row: means and intervals over seeds."""
    return pd.DataFrame([
        {
            **identity(one),
            **{f"{name}{end}": value for name in (AGREEMENT, DIVERGENCE) for end, value in (
                ("", one.mean(name)), ("_low", one.interval(name).low), ("_high", one.interval(name).high)
            )},
        }
        for one in found
    ])  # fmt: skip
