"""The tables that programs read, as CSV and as Parquet: full precision, one name per column, the same bytes."""

from __future__ import annotations

import io
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
MOST_DECIMALS = 12
COST = ("params", "size_bytes", "flops", "latency_b1_p50_ms", "latency_b1_p5_ms", "latency_b1_p95_ms",
        "latency_b256_p50_ms", "latency_b256_p5_ms", "latency_b256_p95_ms", "train_wall_s",
        "train_device_s")  # fmt: skip
TESTED = tuple(f"test_{name}" for name in METRICS if name not in COST)
FORMULA = ("=", "+", "-", "@", "\t")


def leaderboard_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row of the leaderboard, with everything that is known about it."""
    literature = any(row.published for row in rows)
    frame = pd.DataFrame([{**_line(row), **(_published(row) if literature else {})} for row in rows])
    whole = {name: "Int64" for name in ("rank", "seeds_planned") if name in frame}
    return frame.astype(whole)  # some rows have none, and pandas would make numbers with a point of the others


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
        "within_best": row.within_best,
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
            "source_wall_s": row.source_wall_s, "fixed_by_definition": row.by_definition,
            "further_images": row.further_images, "partial": row.partial,
            "differs_in": " ".join(row.differs), "reasons": "; ".join(row.reasons),
        }
        for row in rows
    ])  # fmt: skip


def pareto_frame(board: Leaderboard) -> pd.DataFrame:
    """The points of the Pareto figure: test means of retrained configurations and of the teacher."""
    frame = leaderboard_frame([row for row in board.rows if row.scores])
    names = [
        "row",
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
    """CSV text (RFC 4180, but lines end in `\\n`): whole numbers without a point, empty where unknown, else `rounded`.

    Text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    plain = pd.DataFrame({name: pd.Series([_plain(v) for v in frame[name]], dtype=object) for name in frame.columns})
    plain.columns = pd.Index([_plain(name) for name in plain.columns])
    return str(plain.to_csv(index=False, lineterminator="\n"))


def parquet(frame: pd.DataFrame) -> bytes:
    """The same numbers as `csv` as an Apache Parquet file of typed columns; what is unknown is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {str(name): _typed([_cell(value) for value in frame[name]]) for name in frame.columns}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd", version="2.6", store_schema=False)
    return out.getvalue()


def rounded(value: float) -> float:
    """Six decimals, or six significant digits below one; from the thirteenth decimal on it is rounding, and so zero."""
    exponent = int(f"{value:e}".rpartition("e")[2])
    return round(value, min(MOST_DECIMALS, max(DECIMALS, DECIMALS - 1 - exponent)))


def _typed(cells: list[Any]) -> Any:
    """A column of true or false, of whole numbers, of numbers, or of text; of numbers too where nothing is known."""
    import pyarrow as pa

    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int, float}:
        return pa.array(cells, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.array(cells, pa.bool_())
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


def _cell(value: Any) -> Any:
    """A value as plain Python: None where it is unknown, numbers rounded, all else that is no number as text."""
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float):
        return rounded(value)
    return value if isinstance(value, (bool, int)) else str(value)


def _plain(value: Any) -> Any:
    cell = _cell(value)
    if isinstance(cell, str):
        line = re.sub(r"[\r\n]", " ", cell)  # pandas does not quote a bare carriage return, which ends a row
        return f"'{line}" if line.lstrip(" ").startswith(FORMULA) else line
    if cell is None:
        return ""
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() else repr(cell)
    return cell
