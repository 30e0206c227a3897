"""The exhibits of a study in the order of its report: one function of (results, leaderboard) each."""

from __future__ import annotations

from collections.abc import Callable

from kdbench.report.across import statistics_exhibits
from kdbench.report.curves import curves
from kdbench.report.exhibit import Exhibit
from kdbench.report.fidelity import fidelity
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results
from kdbench.report.robustness import robustness
from kdbench.report.sensitivity import sensitivity
from kdbench.report.trade_offs import trade_offs

SOURCES: tuple[Callable[[Results, Leaderboard], list[Exhibit]], ...] = (
    statistics_exhibits,
    trade_offs,
    curves,
    sensitivity,
    fidelity,
    robustness,
)


def exhibits(results: Results, board: Leaderboard) -> list[Exhibit]:
    """All exhibits that the study has something for, those that are refused with a reason included."""
    return [exhibit for source in SOURCES for exhibit in source(results, board)]
