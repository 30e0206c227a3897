"""Every method over the pairs of a study: one row on each, means, gains over the baselines, and what it misses.

On each pair a method stands with one row: of several retrained sizes the one that validation prefers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from kdbench.labels import plural
from kdbench.report import stats
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import BASELINES, SCORE, Leaderboard, Row, preferred
from kdbench.report.load import Results
from kdbench.report.over_seeds import (
    BOOTSTRAP,
    COUNTS,
    IMPROVEMENT,
    bounds,
    estimate_cell,
    gain_columns,
    gain_headings,
)
from kdbench.report.ranks import DECIMALS
from kdbench.report.stats import Difference, Interval
from kdbench.report.tables import NONE, Cell, Column, Table, difference_cell, failures_text

# Of nominal 95 % intervals of the mean (benchmarks/bootstrap_coverage.py)
COVERAGE = (
    "With few seeds they are too narrow: with three in each pair they cover 81 % (2 pairs) to 88 % (12 pairs), with "
    "five 88 to 90 %."
)


@dataclass(frozen=True)
class Gain:
    """What a method gains over a baseline on the pairs that have both with the same student."""

    difference: Difference
    improvement: Interval
    pairs: int


@dataclass(frozen=True)
class Aggregate:
    """One method over the pairs. rows: of each pair its ranked row. missing: pair -> why the method has no rank there.

    gains: by baseline. rank: by mean among the methods that miss no pair.
    """

    method: str
    rows: Mapping[str, Row]
    missing: Mapping[str, str]
    mean: float
    mean_interval: Interval
    iqm: float
    iqm_interval: Interval
    gains: Mapping[str, Gain]
    failures: Mapping[str, int]
    rank: int | None = None


def compared_pairs(results: Results, board: Leaderboard) -> list[str]:
    """The pairs on which any row is ranked, in the study's order."""
    ranked = {row.pair for row in board.rows if row.rank}
    return [pair for pair in results.pairs if pair in ranked]


def aggregates(results: Results, board: Leaderboard) -> list[Aggregate]:
    """Every method that is ranked on some pair: first those that miss none, best mean first, then the others."""
    pairs = compared_pairs(results, board)
    out = []
    for method in results.methods:
        chosen = {pair: row for pair in pairs if (row := _chosen(board, pair, method))}
        if chosen:
            missing = {pair: _why_missing(board, pair, method) for pair in pairs if pair not in chosen}
            failures = sum((Counter(f.failures) for f in board.fairness if f.method == method), Counter[str]())
            out.append(_over_pairs(board, method, chosen, missing, failures))
    out.sort(key=lambda entry: (bool(entry.missing), -entry.mean, entry.method))
    means = [round(entry.mean, DECIMALS) for entry in out if not entry.missing]
    return [
        entry if entry.missing else replace(entry, rank=1 + sum(mean > round(entry.mean, DECIMALS) for mean in means))
        for entry in out
    ]


def _over_pairs(
    board: Leaderboard, method: str, rows: Mapping[str, Row], missing: Mapping[str, str], failures: Mapping[str, int]
) -> Aggregate:
    strata = [list(row.scores.values()) for row in rows.values()]
    gains = {}
    for baseline in BASELINES:
        rivals = {pair: _baseline(board, row, baseline) for pair, row in rows.items() if method != baseline}
        if found := [(rows[pair], rival) for pair, rival in rivals.items() if rival]:
            gains[baseline] = _gain(found)
    return Aggregate(
        method, rows, missing, stats.aggregate(strata), stats.stratified_interval(strata),
        stats.aggregate(strata, "iqm"), stats.stratified_interval(strata, "iqm"), gains, failures,
    )  # fmt: skip


def _gain(found: Sequence[tuple[Row, Row]]) -> Gain:
    """Paired by seed where every pair allows it, by the rule of leaderboard.difference; else unpaired everywhere."""
    first, second = [row.scores for row, _ in found], [rival.scores for _, rival in found]
    common = [sorted(set(x) & set(y)) for x, y in zip(first, second, strict=True)]
    sides = list(zip(first, second, common, strict=True))
    paired = all(len(both) >= min(stats.MINIMUM, len(x), len(y)) for x, y, both in sides)
    if paired:
        ours, theirs = [[x[s] for s in both] for x, _, both in sides], [[y[s] for s in both] for _, y, both in sides]
    else:
        ours, theirs = [list(x.values()) for x in first], [list(y.values()) for y in second]
    difference = stats.stratified_difference(ours, theirs, paired)
    return Gain(difference, stats.improvement_interval(ours, theirs), len(found))


def _chosen(board: Leaderboard, pair: str, method: str) -> Row | None:
    """The ranked row of a method on a pair that validation prefers."""
    rows = [row for row in board.rows if row.rank and (row.pair, row.method) == (pair, method)]
    return preferred(rows) if rows else None


def _baseline(board: Leaderboard, row: Row, method: str) -> Row | None:
    """The ranked row of a baseline that trained the same student on the same pair."""
    same = [r for r in board.rows if (r.pair, r.method) == (row.pair, method) and r.model == row.model]
    rivals = [r for r in same if r.rank]
    return preferred(rivals) if rivals else None


def _why_missing(board: Leaderboard, pair: str, method: str) -> str:
    reasons = {r: None for row in board.rows if (row.pair, row.method) == (pair, method) for r in row.unranked}
    return "; ".join(reasons) or "not part of this pair"


def aggregate_exhibit(results: Results, found: Sequence[Aggregate], pairs: Sequence[str]) -> Exhibit:
    """The exhibit `aggregate`: one line for each method that is ranked on some pair."""
    counts = sorted({len(row.scores) for entry in found for row in entry.rows.values()})
    seeds = plural(counts[0], "training seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} training seeds"
    notes = (
        f"Over {plural(len(pairs), 'pair')} with {seeds} each; on each pair a method stands with the "
        "configuration that validation chose, of several sizes with the preferred one. Mean: of the pairs' means. IQM: "
        "mean of the middle half of all seeds of all pairs. "
        f"[{BOOTSTRAP}, stratified: the seeds of every pair are resampled on their own, as in Agarwal et al. 2021.]",
        "The unit of replication is the training seed within a pair. The pairs are fixed: intervals cover other seeds "
        f"of the same pairs, and say nothing about other pairs or data. {COVERAGE}",
        "Δ: difference to the same student trained by the baseline on the same pair, mean over the pairs that have "
        f"both; ‡ unpaired, where seeds are not shared on every pair. {IMPROVEMENT}, averaged over pairs. Not "
        "corrected for multiple comparisons; no test is made here.",
        "Failures: of all pairs, search and final.",
        *missing_notes(results, found, pairs),
    )
    frame = pd.DataFrame([_line(entry, pairs) for entry in found])
    whole = ["rank", *(f"better_than_{baseline}_pairs" for baseline in BASELINES)]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))  # pandas makes numbers with a point of a column with a gap
    return Exhibit("aggregate", "Methods over all pairs", {"": _table(found, pairs)}, frame, notes=notes)


def missing_notes(results: Results, found: Sequence[Aggregate], pairs: Sequence[str]) -> list[str]:
    """Which methods are not compared over the pairs, and which pairs are left out."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for entry in found:
        if entry.missing:
            alike.setdefault(tuple(entry.missing.items()), []).append(entry.method)
    notes = [
        f"Not ranked over pairs: {', '.join(methods)}: no ranked row on "
        f"{', '.join(f'{pair} ({why})' for pair, why in missing)}."
        for missing, methods in alike.items()
    ]
    waiting = [pair for pair in results.pairs if pair not in pairs]
    return [*notes, f"Pairs without any ranked row are left out: {', '.join(waiting)}."] if waiting else notes


def _table(found: Sequence[Aggregate], pairs: Sequence[str]) -> Table:
    columns = (
        Column("#", "rank by mean, among methods that miss no pair"), Column("Method", numeric=False),
        Column("Pairs", "with a ranked row, of all"), Column("Mean % [95 %]", "test top-1 accuracy, mean of the pairs"),
        Column("IQM % [95 %]", "interquartile mean of all seeds"),
        *gain_headings(),
        Column("Failures", "trainings that did not finish, search and final, all pairs", False),
    )  # fmt: skip
    rows = tuple(
        (Cell(str(entry.rank) if entry.rank else NONE), Cell(entry.method), Cell(f"{len(entry.rows)}/{len(pairs)}"),
         replace(estimate_cell(entry.mean, entry.mean_interval), best=entry.rank == 1),
         estimate_cell(entry.iqm, entry.iqm_interval),
         *(cell for baseline in BASELINES for cell in _gained(entry, baseline)), Cell(failures_text(entry.failures)))
        for entry in found
    )  # fmt: skip
    return Table(columns, rows, tuple("unranked" if entry.missing else "student" for entry in found))


def _gained(entry: Aggregate, baseline: str) -> tuple[Cell, Cell]:
    gain = entry.gains.get(baseline)
    if gain is None:
        return Cell(NONE), Cell(NONE)
    cell = difference_cell(gain.difference)
    if gain.pairs < len(entry.rows):
        cell = replace(cell, extra=f"{cell.extra} on {plural(gain.pairs, 'pair')}".strip())
    return cell, estimate_cell(gain.difference.improvement, gain.improvement)


def _line(entry: Aggregate, pairs: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "rank": entry.rank, "method": entry.method, "pairs": len(entry.rows), "pairs_of_study": len(pairs),
        "seeds": sum(len(row.scores) for row in entry.rows.values()),
        **bounds(f"{SCORE}_mean", entry.mean, entry.mean_interval),
        **bounds(f"{SCORE}_iqm", entry.iqm, entry.iqm_interval),
    }  # fmt: skip
    for baseline in BASELINES:
        gain = entry.gains.get(baseline)
        line |= gain_columns(baseline, gain.difference if gain else None)
        name = f"better_than_{baseline}_probability"
        line |= {f"{name}_low": gain and gain.improvement.low, f"{name}_high": gain and gain.improvement.high}
        line[f"{name.removesuffix('_probability')}_pairs"] = gain and gain.pairs
    line |= {name: entry.failures.get(name, 0) for name in COUNTS}
    line["not_ranked_because"] = "; ".join(f"{pair}: {why}" for pair, why in entry.missing.items())
    return {**line, "rows": " ".join(row.id for row in entry.rows.values())}
