"""Every cell of a row of leaderboard.csv as a rule applied to named records, so that anybody can work it out again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kdbench.errors import RecordError
from kdbench.record import METRICS, TrialRecord, canonical_json, metric
from kdbench.report.fairness import FAILURES
from kdbench.report.frames import leaderboard_frame
from kdbench.report.latency import conditions_of
from kdbench.report.leaderboard import BASELINES, FRONTS, SCORE, Row, by_seed, difference
from kdbench.report.load import deployed_key, table_name
from kdbench.report.stats import RESAMPLES
from kdbench.trace.locate import Report

RULES: dict[str, str] = {
    "label": "text of the study or of a spec, as it stands there",
    "study": "asked for in study.json",
    "list": "the records, or what they name",
    "count": "how many records there are",
    "value": "the number of one record",
    "mean": "arithmetic mean of the records' numbers, one record per seed",
    "median": "median of the records' numbers",
    "interval": f"end of the 95 % interval of the mean: bootstrap, {RESAMPLES} resamples, percentiles, seed 0",
    "mean difference": "mean of the numbers minus mean of the baseline's: seed by seed where paired",
    "difference interval": "end of that interval of the difference: over the pairs, or over both samples",
    "paired": "whether the difference is taken seed by seed: three seeds are shared, or all of the smaller sample",
    "improvement": "share of pairs of a number and a baseline's in which the first is greater; ties count half",
    "rank": "one more than the number of ranked rows of the table with a greater mean",
    "within best": "whether the interval of the difference to the best-ranked row holds 0",
    "front": "whether no ranked row is at least as good on both axes and better on one",
    "reasons": "what fairness.csv and the plan say against ranking the row",
    "literature": "from kdbench/report/literature.csv; no record",
    "none": "an empty cell: there is nothing to compute it from",
    "unknown": "a column that this version of kdbench cannot trace",
}


@dataclass(frozen=True)
class Number:
    """One cell and where it comes from.

    column: of leaderboard.csv. value: in full precision; None where the cell is empty. rule: of RULES. what: the name
    of the result or field that is read in each record. records: their keys; numbers: what they hold, in that order.
    baseline, baseline_numbers: the same of the row it is compared with. rows: ids of other rows that decide it.
    """

    column: str
    value: Any
    rule: str
    what: str = ""
    records: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    baseline: tuple[str, ...] = ()
    baseline_numbers: tuple[float, ...] = ()
    rows: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is empty is left out."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items() if v not in ((), "")}


@dataclass
class Source:
    """A row with everything that its numbers are read from."""

    report: Report
    row: Row
    finished: dict[int, TrialRecord] = field(init=False)
    records: list[TrialRecord] = field(init=False)
    table: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        by_key = self.report.results.by_key
        self.records = [by_key[key] for key in self.row.keys]
        self.finished = dict(sorted(by_seed(self.records).items()))
        self.table = self.report.board.of(table_name(self.row.pair))

    @property
    def chosen(self) -> TrialRecord | None:
        """The search trial that was retrained."""
        keys = {str(record.spec.slot.get("chosen")) for record in self.records}
        return self.report.results.by_key.get(keys.pop()) if len(keys) == 1 else None

    def holding(self, name: str, mean: float) -> list[TrialRecord]:
        """The records whose numbers have that mean: the finished trainings by seed, or else their evaluations; empty
        where neither has."""
        own = list(self.finished.values())
        keys = [record.key for record in own]
        later = [r for r in self.report.results.phase("evaluation") if r.spec.init in keys and r.status == "finished"]
        later.sort(key=lambda record: (keys.index(str(record.spec.init)), record.key))
        for records in (own, later):
            found = [record for record in records if record.result.get(name) is not None]
            if found and math.isclose(math.fsum(_values(found, name)) / len(found), mean, rel_tol=1e-9, abs_tol=1e-9):
                return found
        return []

    def latencies(self) -> list[TrialRecord]:
        """The latency records whose medians the row shows: of its model, under its conditions."""
        if not self.row.latency_conditions:
            return []
        key = deployed_key(self.records[0].spec)
        groups: dict[str, list[TrialRecord]] = {}
        for record in self.report.results.phase("latency"):
            if record.status == "finished" and deployed_key(record.spec) == key:
                groups.setdefault(canonical_json(conditions_of(record)), []).append(record)
        names = [name for name in METRICS if name.startswith("latency_") and math.isfinite(self.row.value(name))]
        for group in groups.values():
            if all(_median(group, name) == self.row.value(name) for name in names):
                return group
        raise RecordError(f"row {self.row.id}: no latency records give its latencies; see `kdbench verify`.")

    def baseline(self, name: str) -> Source | None:
        """The row that differences to `scratch` or `kd` are taken to: of the same student, the best on validation."""
        if name not in self.row.differences:
            return None
        able = [
            r for r in self.table if r.kind == "student" and r.method == name and r.model == self.row.model and r.scores
        ]
        for rival in sorted(able, key=lambda r: -np.nan_to_num(r.selected_merit, nan=-np.inf)):
            if difference(self.row.scores, rival.scores) == self.row.differences[name]:
                return Source(self.report, rival)
        raise RecordError(f"row {self.row.id}: no row of '{name}' gives its difference; see `kdbench verify`.")


def numbers(source: Source) -> list[Number]:
    """Every cell of the row, in the order of the columns of leaderboard.csv."""
    rows = source.report.board.rows
    place = next(i for i, row in enumerate(rows) if row.id == source.row.id and row.kind == source.row.kind)
    line = leaderboard_frame(rows).astype(object).iloc[place]
    out = []
    for name, raw in line.items():
        column, value = str(name), _plain(raw)
        found = next((made for maker in MAKERS if (made := maker(source, column, value)) is not None), None)
        out.append(found or Number(column, value, "unknown"))
    return out


def _plain(value: Any) -> Any:
    """A cell as JSON can hold it: None for what is not there."""
    if value is None or value is pd.NA or value == "":
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


Maker = Callable[[Source, str, Any], Number | None]


def _label(source: Source, column: str, value: Any) -> Number | None:
    words = {
        "row": "SHA-256 of pair and configuration, eight digits", "pair": "spec.slot.pair", "kind": "spec.phase",
        "method": "spec.slot.row, else spec.method.name", "student": "spec.model",
        "settings": "spec.method, and what search.shared lists of spec.train",
        "latency_conditions": "environment.latency and hardware of the latency records",
    }  # fmt: skip
    if column not in words:
        return None
    records = source.latencies() if column == "latency_conditions" else source.records
    return Number(column, value, "none" if value is None else "label", words[column], _keys(records))


def _counted(source: Source, column: str, value: Any) -> Number | None:
    row = source.row
    if column in ("seeds", "seeds_finished"):
        rule = "list" if column == "seeds" else "count"
        return Number(column, value, rule, "spec.seed", _keys(source.finished.values()), tuple(source.finished))
    if column in ("records", "seeds_started"):
        return Number(column, value, "list" if column == "records" else "count", "spec.seed", row.keys)
    if column == "seeds_planned":
        return Number(column, value, "study" if value is not None else "none", "final.seeds")
    phase, _, status = column.partition("_")
    if phase in ("search", "final") and status in FAILURES:
        found = [r for r in (searched(source) if phase == "search" else _finals(source)) if r.status == status]
        return Number(column, value, "count", f"status {status}", _keys(found))
    return None


def _finals(source: Source) -> list[TrialRecord]:
    """The trainings whose failures a row counts: its own; of a method that was not retrained, all of it."""
    if source.row.kind != "missing":
        return source.records
    results, row = source.report.results, source.row
    return [r for r in results.phase("final") if r.spec.row == row.method and results.pair(r) == row.pair]


def searched(source: Source) -> list[TrialRecord]:
    """The search trials of the row's method and pair, in order; none of a teacher."""
    results, row = source.report.results, source.row
    if row.kind == "teacher":
        return []
    own = [r for r in results.phase("search") if r.spec.row == row.method and results.pair(r) == row.pair]
    return sorted(own, key=lambda r: (r.spec.slot.get("repeat", 0), r.spec.slot.get("trial", 0), r.key))


def _score(source: Source, column: str, value: Any) -> Number | None:
    if column not in (SCORE, f"{SCORE}_low", f"{SCORE}_high"):
        return None
    rule = "none" if value is None else "mean" if column == SCORE else "interval"
    return Number(column, value, rule, SCORE, _keys(source.finished.values()), _values(source.finished.values(), SCORE))


def _gain(source: Source, column: str, value: Any) -> Number | None:
    for name in BASELINES:
        gain = f"gain_over_{name}_pct"
        rules = {
            gain: "mean difference", f"{gain}_low": "difference interval", f"{gain}_high": "difference interval",
            f"{gain}_paired": "paired", f"better_than_{name}_probability": "improvement",
        }  # fmt: skip
        if column in rules:
            other = source.baseline(name)
            if other is None or value is None:
                return Number(column, value, "none")
            own, base = _compared(source, other, source.row.differences[name].paired)
            return Number(column, value, rules[column], SCORE, _keys(own), _values(own, SCORE), _keys(base),
                          _values(base, SCORE), (other.row.id,))  # fmt: skip
    return None


def _compared(source: Source, other: Source, paired: bool) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The records of both sides, seed by seed where the difference is paired."""
    if not paired:
        return list(source.finished.values()), list(other.finished.values())
    common = sorted(set(source.finished) & set(other.finished))
    return [source.finished[seed] for seed in common], [other.finished[seed] for seed in common]


def _selected(source: Source, column: str, value: Any) -> Number | None:
    if column != "selected_val_top1_pct":
        return None
    chosen = source.chosen
    if chosen is None or value is None:
        return Number(column, value, "none")
    return Number(column, value, "value", "val_top1_pct", (chosen.key,), _values([chosen], "val_top1_pct"))


def _result(source: Source, column: str, value: Any) -> Number | None:
    """A result: the mean over seeds, or of latencies the median over measurements."""
    try:
        metric(column)
    except KeyError:
        if column != "best_epoch":
            return None
    if value is None:
        return Number(column, None, "none", column)
    latency = column.startswith("latency_")
    records = source.latencies() if latency else source.holding(column, float(value))
    if not records:
        return None
    return Number(column, value, "median" if latency else "mean", column, _keys(records), _values(records, column))


def _standing(source: Source, column: str, value: Any) -> Number | None:
    """What a row is in its table: rank, fronts, nearness to the best."""
    ranked = [row for row in source.table if row.rank]
    if column == "rank":
        above = tuple(row.id for row in ranked if row.score > source.row.score)
        return Number(column, value, "rank" if value is not None else "none", SCORE, rows=above if value else ())
    if column == "within_best":
        return Number(column, value, "within best", SCORE, rows=tuple(row.id for row in ranked if row.rank == 1)[:1])
    if column.startswith("on_front_"):
        name = column.removeprefix("on_front_")
        able = [row for row in ranked if name != "latency" or row.latency_comparable]
        axes = FRONTS.get(name, (SCORE,))
        return Number(column, value, "front", " and ".join(axes), rows=_better(source.row, able, axes))
    if column == "not_ranked_because":
        return Number(column, value, "reasons" if value is not None else "none")
    if column.startswith("published_"):
        return Number(column, value, "literature" if value is not None else "none")
    return None


def _better(row: Row, ranked: Sequence[Row], axes: Sequence[str]) -> tuple[str, ...]:
    """Ids of ranked rows that are at least as good on all axes, and better on one."""

    def losses(of: Row) -> list[float]:
        return [of.value(axis) * (-1 if metric(axis).direction == "max" else 1) for axis in axes]

    own, found = losses(row), []
    for other in ranked:
        pairs = list(zip(losses(other), own, strict=True))
        if all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
            found.append(other.id)
    return tuple(found)


def _keys(records: Iterable[TrialRecord]) -> tuple[str, ...]:
    return tuple(record.key for record in records)


def _values(records: Iterable[TrialRecord], name: str) -> tuple[float, ...]:
    return tuple(float(record.result[name]) for record in records)


def _median(records: Sequence[TrialRecord], name: str) -> float:
    found = [float(r.result[name]) for r in records if r.result.get(name) is not None]
    return statistics.median(found) if found else math.nan


MAKERS: tuple[Maker, ...] = (_label, _counted, _score, _gain, _selected, _standing, _result)
