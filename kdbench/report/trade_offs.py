"""Accuracy against cost: the exhibits on fronts, their quality, the best within budgets, and the search's fronts."""

from __future__ import annotations

from kdbench.report.attainment import attainment_exhibit, search_front_exhibit
from kdbench.report.budgets import budgets_exhibit
from kdbench.report.exhibit import Exhibit
from kdbench.report.fronts import reported_fronts, section
from kdbench.report.fronts_table import fronts_exhibit
from kdbench.report.indicators import indicators_exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results


def trade_offs(results: Results, board: Leaderboard) -> list[Exhibit]:
    """`fronts`, `indicators` and `budgets` of test means; `search-fronts` and `attainment` of validation results."""
    asked, fronts = section(results), reported_fronts(results, board)
    return [
        fronts_exhibit(fronts, results.methods),
        indicators_exhibit(fronts, asked),
        budgets_exhibit(board, results.tables, fronts, asked),
        search_front_exhibit(results),
        attainment_exhibit(results, asked),
    ]
