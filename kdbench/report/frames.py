"""The tables that programs read: full precision, one name per column, safe to open in a spreadsheet."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdbench.record import METRICS
from kdbench.report.fairness import COMPARED, FAILURES, Fairness
from kdbench.report.leaderboard import BASELINES, Leaderboard, Row
from kdbench.report.stats import Difference

DECIMALS = 6  # more would only show how a machine rounds, and a report has to be the same on another one
COST = ("params", "size_bytes", "flops", "latency_b1_p50_ms", "latency_b1_p5_ms", "latency_b1_p95_ms",
        "latency_b256_p50_ms", "latency_b256_p5_ms", "latency_b256_p95_ms", "train_wall_s")  # fmt: skip
TESTED = tuple(f"test_{name}" for name in METRICS if name not in COST)
FORMULA = ("=", "+", "-", "@", "\t")


def leaderboard_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row of the leaderboard, with everything that is known about it."""
    literature = any(row.published for row in rows)
    return pd.DataFrame([{**_line(row), **(_published(row) if literature else {})} for row in rows])


def _line(row: Row) -> dict[str, Any]:
    return {
        "row": row.id,
        "pair": row.pair,
        "kind": row.kind,
        "rank": row.rank,
        "method": row.method,
        "student": row.student,
        "settings": row.settings,
        "seeds_finished": len(row.scores),
        "seeds_started": row.runs,
        "seeds_planned": row.planned,
        "test_top1_pct": row.score,
        "test_top1_pct_low": row.interval.low,
        "test_top1_pct_high": row.interval.high,
        **{k: v for method in BASELINES for k, v in _gain(method, row.differences.get(method)).items()},
        **{name: row.value(name) for name in TESTED if name != "test_top1_pct"},
        "best_epoch": row.value("best_epoch"),
        "val_best_epoch_top1_pct": row.value("val_best_epoch_top1_pct"),
        "selected_val_top1_pct": row.selected_val_top1_pct,
        **{name: row.value(name) for name in COST},
        "latency_conditions": row.latency_conditions,
        "on_front_params": "params" in row.fronts,
        "on_front_latency": "latency" in row.fronts,
        **{
            f"{phase}_{status}": row.failures.get(f"{phase}_{status}", 0)
            for phase in ("search", "final")
            for status in FAILURES
        },
        "not_ranked_because": "; ".join(row.unranked),
        "seeds": " ".join(map(str, row.scores)),
        "records": " ".join(row.keys),
    }


def _published(row: Row) -> dict[str, Any]:
    """What the literature has for the same: the first source, and the others as `value (protocol; source)`."""
    first, others = next(iter(row.published), None), row.published[1:]
    return {
        "published_top1_pct": first and first.top1_pct,
        "published_std": first and first.std,
        "published_protocol": first and first.protocol,
        "published_epochs": first and first.epochs,
        "published_verified": first and first.verified,
        "published_source": first and first.source,
        "published_elsewhere": "; ".join(f"{other.text} ({other.protocol}; {other.source})" for other in others),
    }


def _gain(method: str, gain: Difference | None) -> dict[str, Any]:
    name = f"gain_over_{method}_pct"
    if gain is None:
        return dict.fromkeys(
            (name, f"{name}_low", f"{name}_high", f"{name}_paired", f"better_than_{method}_probability")
        )
    return {
        name: gain.mean, f"{name}_low": gain.interval.low, f"{name}_high": gain.interval.high,
        f"{name}_paired": gain.paired, f"better_than_{method}_probability": gain.improvement,
    }  # fmt: skip


def fairness_frame(rows: Sequence[Fairness]) -> pd.DataFrame:
    """One line per (pair, method): what it was given, what it used, and where it differs from the majority."""
    return pd.DataFrame([
        {
            "pair": row.pair, "method": row.method, "search_run": row.search_run, "search_planned": row.search_planned,
            "final_configurations": row.configurations, "final_run": row.final_run, "final_planned": row.final_planned,
            **{name: row.cells[name] for name in COMPARED if name != "search_trials"}, **row.failures,
            "search_wall_s": row.search_wall_s, "final_wall_s": row.final_wall_s, "start": row.start,
            "source_wall_s": row.source_wall_s, "fixed_by_definition": row.by_definition, "partial": row.partial,
            "differs_in": " ".join(row.differs), "reasons": "; ".join(row.reasons),
        }
        for row in rows
    ])  # fmt: skip


def pareto_frame(board: Leaderboard) -> pd.DataFrame:
    """The points of the Pareto figure: test means of retrained configurations and of the teacher."""
    frame = leaderboard_frame([row for row in board.rows if row.scores])
    names = [
        "pair",
        "kind",
        "method",
        "student",
        "seeds_finished",
        "test_top1_pct",
        "test_top1_pct_low",
        "test_top1_pct_high",
    ]
    names += ["params", "latency_b1_p50_ms", "latency_conditions", "on_front_params", "on_front_latency", "rank"]
    return frame[names]


def csv(frame: pd.DataFrame) -> str:
    """CSV text (RFC 4180, but lines end in `\\n`): whole numbers without a point, six decimals, empty where unknown.

    Text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    plain = pd.DataFrame({name: pd.Series([_plain(v) for v in frame[name]], dtype=object) for name in frame.columns})
    plain.columns = pd.Index([_plain(name) for name in plain.columns])
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        line = re.sub(
            r"[\r\n]", " ", value
        )  # a bare carriage return is not quoted by pandas, and ends a row for readers
        return f"'{line}" if line.lstrip(" ").startswith(FORMULA) else line
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        rounded = round(value, DECIMALS)
        return int(rounded) if rounded.is_integer() else repr(rounded)
    return value
