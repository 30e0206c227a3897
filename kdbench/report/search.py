"""What the search saw: validation results, one training each. Nothing here is comparable with the test table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.labels import model_label, settings_label
from kdbench.record import TrialRecord
from kdbench.report.load import Results, table_name
from kdbench.report.pareto import on_front

SCORE = "val_top1_pct"
DEFAULT_OBJECTIVES = (SCORE, "params")


@dataclass(frozen=True)
class SearchRow:
    """The search of one method. best_val_top1_pct: of its best trial on validation; student, settings: that trial's."""

    pair: str
    method: str
    run: int
    finished: int
    best_val_top1_pct: float
    student: str
    settings: str
    wall_s: float


def search_objectives(results: Results) -> tuple[str, ...]:
    """The objectives of the study's search, at least two for a front; empty if it has only one."""
    names = tuple(results.section("search").get("objectives") or DEFAULT_OBJECTIVES)
    return names if len(names) > 1 else ()


def search_summary(results: Results) -> list[SearchRow]:
    """The search of each (pair, method) that has run, in the study's order."""
    rows = []
    for pair in results.pairs:
        for method in results.methods:
            trials = [r for r in results.phase("search") if r.spec.method_name == method and results.pair(r) == pair]
            if trials:
                rows.append(_summary(results, pair, method, trials))
    return rows


def _summary(results: Results, pair: str, method: str, trials: list[TrialRecord]) -> SearchRow:
    finished = [r for r in trials if r.status == "finished" and r.result.get(SCORE) is not None]
    best = max(finished, key=lambda r: (r.result[SCORE], r.key), default=None)
    wall_s = sum(r.wall_s for r in trials)
    if best is None:
        return SearchRow(pair, method, len(trials), 0, math.nan, "", "", wall_s)
    return SearchRow(
        pair, method, len(trials), len(finished), float(best.result[SCORE]),
        model_label(best.spec.model), settings_label(searched(results, best)), wall_s,
    )  # fmt: skip


def searched(results: Results, record: TrialRecord) -> dict[str, Any]:
    """Hyper-parameters of a trial: the method's own, and those of training that the study searches for all."""
    shared = results.section("search").get("shared") or {}
    return {**record.spec.hyper, **{name: record.spec.train[name] for name in shared if name in record.spec.train}}


def search_frame(results: Results) -> pd.DataFrame:
    """Every search trial, failed ones too; `on_search_front` by the study's own objectives, per table, on validation.

    Columns `model.*`, `method.*` and `train.*` hold the settings, the rest the results by their names in records.
    """
    rows = []
    for record in results.phase("search"):
        spec = record.spec
        shared = results.section("search").get("shared") or {}
        settings = {f"model.{k}": v for k, v in spec.model.items()}
        settings |= {f"method.{k}": v for k, v in spec.hyper.items()}
        settings |= {f"train.{k}": spec.train[k] for k in shared if k in spec.train}
        rows.append(
            {
                "pair": results.pair(record), "method": spec.method_name, "repeat": spec.slot.get("repeat"),
                "trial": spec.slot.get("trial"), "status": record.status, "on_search_front": False,
                **settings, **record.result, "wall_s": record.wall_s, "key": record.key,
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    _flag_front(frame, search_objectives(results))
    first = ["pair", "method", "repeat", "trial", "status", "on_search_front"]
    middle = sorted(name for name in frame.columns if "." in name)
    last = sorted(set(frame.columns) - set(first) - set(middle) - {"key"})
    order = {method: i for i, method in enumerate(results.methods)}
    frame = frame.assign(_order=frame["method"].map(order)).sort_values(["pair", "_order", "repeat", "trial", "key"])
    return frame[[*first, *middle, *last, "key"]].reset_index(drop=True)


def _flag_front(frame: pd.DataFrame, objectives: tuple[str, ...]) -> None:
    if not objectives or not set(objectives) <= set(frame.columns):
        return
    for _, trials in frame[frame["status"] == "finished"].groupby(frame["pair"].map(table_name), sort=True):
        points = trials[list(objectives)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype="float64")
        frame.loc[trials.index, "on_search_front"] = on_front(points, objectives)
