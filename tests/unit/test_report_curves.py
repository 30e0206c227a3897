"""Training curves of the retrained rows: means by epoch over seeds, honest about seeds that stopped."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from report_example import STUDY, final, trial

from kdbench.record import TrialRecord
from kdbench.report.curves import curves, curves_frame, seeds_of
from kdbench.report.figures import style
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import Results


def with_curve(record: TrialRecord, values: list[Any]) -> TrialRecord:
    return dataclasses.replace(record, curves={"val_top1_pct": values})


def of(*records: TrialRecord) -> Results:
    return Results(STUDY, tuple(sorted(records, key=lambda record: record.key)))


def test_the_mean_of_an_epoch_is_over_the_seeds_that_reached_it() -> None:
    results = of(
        with_curve(final("kd", 0, 90.0), [10.0, 30.0]),
        with_curve(final("kd", 1, 92.0), [20.0, 50.0]),
        with_curve(final("kd", 2, None, status="diverged"), [30.0, None]),
    )
    frame = curves_frame(results, leaderboard(results))
    assert list(frame["epoch"]) == [1, 2]
    assert list(frame["seeds"]) == [3, 2]
    assert list(frame["val_top1_pct_mean"]) == [20.0, 40.0]
    assert list(frame["val_top1_pct_low"]) == [10.0, 30.0]
    assert list(frame["val_top1_pct_high"]) == [30.0, 50.0]
    assert set(frame["row"]) == {row.id for row in leaderboard(results).rows if row.method == "kd"}


def test_a_seed_that_was_trained_twice_counts_once() -> None:
    first, second = final("kd", 7, 90.0), final("kd", 7, 91.0, chosen="a" * 16)
    results = of(with_curve(first, [10.0]), with_curve(second, [90.0]))
    rows = [row for row in leaderboard(results).rows if row.method == "kd" and row.kind == "student"]
    assert [len(seeds_of(results, row)) for row in rows] == [1] * len(rows)


def test_records_without_curves_are_refused_with_the_name_that_is_missing() -> None:
    results = of(final("kd", 0, 90.0))
    [exhibit] = curves(results, leaderboard(results))
    assert exhibit.frame is None
    assert exhibit.figure is None
    assert "`val_top1_pct`" in str(exhibit.refusal)


def test_without_a_retrained_row_there_is_no_exhibit() -> None:
    results = of(trial("kd", 0, 0, 90.0))
    assert curves(results, leaderboard(results)) == []


@pytest.mark.parametrize("values", [[50.0], [10.0, 20.0, 30.0], [math.nan, 20.0]])
def test_the_figure_is_drawn_for_one_epoch_and_for_many(values: list[float]) -> None:
    results = of(with_curve(final("kd", 0, 90.0), values), with_curve(final("scratch", 0, 80.0), values))
    [exhibit] = curves(results, leaderboard(results))
    assert exhibit.figure is not None
    with style():
        figure = exhibit.figure()
    assert [axes.get_ylabel() for axes in figure.axes] == ["validation top-1 (%)"]
    assert "n = 1" in exhibit.notes[0]
