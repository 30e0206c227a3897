"""A made-up study for the tests of the HTML page: curves, failures, two pairs, and names that try to be markup."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
from report_example import HYPER, STUDY, final, full_records, latency

from kdbench.record import TrialRecord
from kdbench.report.curves import curves
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results
from kdbench.report.page import page
from kdbench.report.sensitivity import sensitivity

EVIL = "<script>alert(1)</script>"
QUESTION = 'Which "method" wins?</script><script>alert(2)</script> <!-- & \' \u2028'
OTHER = "wrn40 -> wrn"
ERROR = "loss is <b>NaN</b> at step 120"


def page_records() -> list[TrialRecord]:
    """The whole study of the report's tests with curves, another pair, an evil name, and an odd latency."""
    records = [r for r in full_records() if not (r.spec.phase == "latency" and r.spec.model.get("depth") == 8)]
    records += [latency(8, 0.5, 0.6, conditions={"threads": 2}), latency(8, 1.0, 0.9)]
    HYPER[EVIL] = {"note": EVIL}
    try:
        records += [final(EVIL, 1000 + i, 91.0 + i / 10, depth=14) for i in range(5)]
    finally:
        del HYPER[EVIL]
    for method, top1 in (("scratch", 70.0), ("kd", 72.0)):
        records += [_elsewhere(final(method, 2000 + i, top1 + i)) for i in range(3)]
    return [_with_curves(record) for record in records]


def page_results() -> Results:
    """Its results, as `load` would give them."""
    study = {**copy.deepcopy(STUDY), "question": QUESTION}
    study["methods"] = {**study["methods"], EVIL: {}}
    return Results(study, tuple(sorted(page_records(), key=lambda record: record.key)))


def page_of(results: Results) -> tuple[str, Leaderboard]:
    """The page of some results with the exhibits that it has views of its own for, and the leaderboard in it."""
    board = leaderboard(results)
    refused = Exhibit("ranks", "Ranks <i>of</i> methods", refusal="2 pairs: Friedman's test needs more than <2>.")
    return page(results, board, [*curves(results, board), *sensitivity(results, board), refused]), board


def _elsewhere(record: TrialRecord) -> TrialRecord:
    spec = dataclasses.replace(record.spec, slot={**record.spec.slot, "pair": OTHER})
    return dataclasses.replace(record, spec=spec)


def _with_curves(record: TrialRecord) -> TrialRecord:
    if record.spec.phase not in ("final", "teacher"):
        return record
    rng = np.random.default_rng(int(record.key[:8], 16))
    last: Any = record.result.get("test_top1_pct", 80.0)
    epochs = np.arange(1, 21)
    top1 = last - 40 * np.exp(-epochs / 4) + rng.normal(0, 0.4, len(epochs))
    curves = {"val_top1_pct": [round(v, 2) for v in top1], "train_loss": [round(3 / (1 + e), 4) for e in epochs]}
    lost = {} if record.status == "finished" else {"error": ERROR}
    return dataclasses.replace(record, curves={k: [float(v) for v in values] for k, values in curves.items()}, **lost)
