"""Statistics of every row over its training seeds, and how estimates stand in the cells of a table and a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.report import captions, stats
from kdbench.report.exhibit import Exhibit
from kdbench.report.fairness import FAILURES
from kdbench.report.leaderboard import BASELINES, SCORE, Leaderboard, Row
from kdbench.report.load import Results, table_name
from kdbench.report.stats import Difference, Interval
from kdbench.report.tables import NONE, Cell, Column, Table, difference_cell, failures_text

BOOTSTRAP = f"bootstrap 95 % interval (percentile, {stats.RESAMPLES:,} resamples, seed 0)"
IMPROVEMENT = (
    "P(> scratch) and P(> kd): probability that a random seed of the row is better than a random seed of the baseline, "
    "ties counted half (Mann-Whitney's U over the number of pairs of seeds)"
)
COUNTS = tuple(f"{phase}_{status}" for phase in ("search", "final") for status in FAILURES)

Estimates = Mapping[str, tuple[float, Interval]]  # by statistic


def statistics(results: Results, board: Leaderboard) -> Exhibit:
    """The exhibit `statistics`: mean, median and interquartile mean of every row, its gains, and its failures."""
    known = [(row, _estimates(row)) for row in board.rows]
    tables = {name: _table([line for line in known if table_name(line[0].pair) == name]) for name in results.tables}
    notes = (
        "n counts the training seeds that finished. The unit of replication is the training seed: data split, teacher "
        f"and chosen configuration are fixed. Mean, median and interquartile mean (IQM) each with its {BOOTSTRAP}; "
        f"fewer than {stats.MINIMUM} seeds have none, nor a probability of improvement. {captions.COVERAGE}",
        "IQM: mean without the lowest and the highest quarter of the seeds, rounded down, so below four seeds it is "
        "the mean. SD: standard deviation of a single training over seeds (divisor n - 1).",
        f"{captions.differences()} {IMPROVEMENT}. No test is made here.",
        "Failures: trainings of the row's method that did not finish; they are no part of any number beside it.",
    )
    frame = pd.DataFrame([_line(row, estimates) for row, estimates in known])
    return Exhibit("statistics", "Statistics over seeds", tables, frame, notes=notes)


def _estimates(row: Row) -> Estimates:
    values = list(row.scores.values())
    return {
        "mean": (row.score, row.interval),
        "median": (stats.median(values), stats.bootstrap_interval(values, statistic="median")),
        "iqm": (stats.interquartile_mean(values), stats.bootstrap_interval(values, statistic="iqm")),
    }


def _table(known: Sequence[tuple[Row, Estimates]]) -> Table:
    columns = (
        Column("Method", numeric=False), Column("Student", numeric=False), Column("n", "seeds finished"),
        Column("Mean % [95 %]", "test top-1 accuracy"), Column("Median % [95 %]", "test top-1 accuracy"),
        Column("IQM % [95 %]", "interquartile mean of test top-1 accuracy"), Column("SD %", "of one training"),
        *gain_headings(), Column("Failures", "trainings that did not finish, search and final", False),
        Column("Row", "name of the row, for `kdbench show`", False),
    )  # fmt: skip
    kinds = ["unranked" if row.kind == "student" and row.unranked else row.kind for row, _ in known]
    return Table(columns, tuple(_cells(row, estimates) for row, estimates in known), tuple(kinds))


def _cells(row: Row, estimates: Estimates) -> tuple[Cell, ...]:
    gains = [row.differences.get(baseline) for baseline in BASELINES]
    enough = [gain if gain and min(gain.n, gain.n_baseline) >= stats.MINIMUM else None for gain in gains]
    chances = [gain.improvement if gain else math.nan for gain in enough]
    return (
        Cell(row.method), Cell(row.student or NONE), Cell(str(len(row.scores)) if row.kind != "missing" else NONE),
        *(estimate_cell(*estimate) for estimate in estimates.values()),
        estimate_cell(stats.standard_deviation(list(row.scores.values()))),
        *(cell for gain, p in zip(gains, chances, strict=True) for cell in (difference_cell(gain), estimate_cell(p))),
        Cell(failures_text(row.failures)), Cell(row.id),
    )  # fmt: skip


def _line(row: Row, estimates: Estimates) -> dict[str, Any]:
    line: dict[str, Any] = {
        "row": row.id, "pair": row.pair, "kind": row.kind, "method": row.method, "student": row.student,
        "n": len(row.scores),
    }  # fmt: skip
    for name, estimate in estimates.items():
        line |= bounds(f"{SCORE}_{name}", *estimate)
    line[f"{SCORE}_standard_deviation"] = stats.standard_deviation(list(row.scores.values()))
    for baseline in BASELINES:
        line |= gain_columns(baseline, row.differences.get(baseline))
    counts = {name: row.failures.get(name, 0) for name in COUNTS}
    return {**line, **counts, "no_interval_because": row.interval.reason or ""}


def estimate_cell(value: float, interval: Interval | None = None) -> Cell:
    """`71.32 [70.90, 71.80]`, without the interval where there is none."""
    if not math.isfinite(value):
        return Cell(NONE)
    known = interval is not None and interval.low is not None
    return Cell(f"{value:.2f}", f"[{interval.low:.2f}, {interval.high:.2f}]" if known and interval else "")


def gain_headings() -> list[Column]:
    """Difference and probability of improvement, for each baseline."""
    return [
        column
        for baseline in BASELINES
        for column in (
            Column(f"Δ {baseline}", f"difference to the same student trained by {baseline}, % points"),
            Column(f"P(> {baseline})", f"probability of being better than {baseline}"),
        )
    ]


def bounds(name: str, value: float, interval: Interval) -> dict[str, Any]:
    """An estimate and its interval as columns of a frame."""
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def gain_columns(baseline: str, gain: Difference | None) -> dict[str, Any]:
    """A difference as columns of a frame, named as in leaderboard.csv; empty where there is none."""
    name, better = f"gain_over_{baseline}_pct", f"better_than_{baseline}_probability"
    if gain is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_paired", better))
    return {**bounds(name, gain.mean, gain.interval), f"{name}_paired": gain.paired, better: gain.improvement}
