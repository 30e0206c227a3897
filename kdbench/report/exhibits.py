"""The exhibits of a study in the order of its report: one function of (results, leaderboard) each."""

from __future__ import annotations

from collections.abc import Callable

from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results

SOURCES: tuple[Callable[[Results, Leaderboard], list[Exhibit]], ...] = ()


def exhibits(results: Results, board: Leaderboard) -> list[Exhibit]:
    """All exhibits that the study has something for, those that are refused with a reason included."""
    return [exhibit for source in SOURCES for exhibit in source(results, board)]
