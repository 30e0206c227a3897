"""The statistics of a report: of every row over its seeds, and of every method over the pairs of a study."""

from __future__ import annotations

from kdbench.report.aggregate import aggregate_exhibit, aggregates, compared_pairs
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results
from kdbench.report.over_seeds import statistics
from kdbench.report.rank_exhibits import rank_exhibits


def statistics_exhibits(results: Results, board: Leaderboard) -> list[Exhibit]:
    """`statistics` of every row, `aggregate` where there are several pairs, `ranks` and `rank-comparisons` or why not.

    Nothing where no configuration has been retrained yet.
    """
    if not board.has_final:
        return []
    pairs, found = compared_pairs(results, board), aggregates(results, board)
    several = [aggregate_exhibit(results, found, pairs)] if len(pairs) > 1 else []
    return [statistics(results, board), *several, *rank_exhibits(results, found, pairs)]
