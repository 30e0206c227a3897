"""A finished study as JSON, to be changed by hand into what somebody else could have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdbench.record import TrialRecord, TrialSpec

STUDY = """
study: small
question: Does it run?
data: {name: digits, validation: 100, train: 200}
teacher: {model: cnn, depth: 5, width: 0.5, epochs: 1}
student: {model: cnn, depth: 5, width: 0.25}
methods: {scratch: , kd: {temperature: 4}}
search: {trials: 1, repeats: 1}
final: {seeds: 1}
train: {epochs: 1, batch_size: 50, lr: 0.05}
resources: {executor: local, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""


def spec(**changes: Any) -> TrialSpec:
    """The spec of a final training."""
    facts: dict[str, Any] = {
        "phase": "final", "data": {"name": "digits"}, "model": {"name": "cnn", "depth": 5, "width": 0.25},
        "method": {"name": "kd", "temperature": 4.0, "lambda": 9.0}, "train": {"epochs": 2}, "seed": 7,
        "teacher": "0123456789abcdef", "slot": {"pair": "cnn -> cnn", "final": 0, "chosen": "fedcba9876543210"},
    }  # fmt: skip
    return TrialSpec(**{**facts, **changes})


def record(of: TrialSpec | None = None, **changes: Any) -> TrialRecord:
    """A finished record of it."""
    facts: dict[str, Any] = {
        "status": "finished",
        "result": {"val_top1_pct": 91.5, "test_top1_pct": 90.5, "params": 1000, "size_bytes": 4096, "flops": 2.0e6},
        "curves": {"train_loss": [1.0, 0.5], "val_top1_pct": [80.0, 91.5]}, "environment": {"device": "cpu"},
        "attempts": 1, "started": "2026-01-01T00:00:00.000+00:00", "ended": "2026-01-01T00:00:09.000+00:00",
        "wall_s": 9.0, "error": None,
    }  # fmt: skip
    return TrialRecord(spec=of or spec(), **{**facts, **changes})


def file(folder: Path, value: Any, name: str | None = None) -> Path:
    """Write a value where the record of its key belongs."""
    path = folder / "records" / f"{name or value['key']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
