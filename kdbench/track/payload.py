"""What a record becomes in MLflow: name, parameters, metrics and tags of a run, as plain values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kdbench.combine import deployed
from kdbench.labels import model_label, value_label
from kdbench.record import TrialRecord, TrialSpec, canonical_json
from kdbench.store import redacted_record

LAYOUT = 4  # raised when the same record is to be written differently, so that `sync` writes its run anew

KEY, STUDY, PHASE, STATUS = "kdbench.key", "kdbench.study", "kdbench.phase", "kdbench.status"
MODEL, CONFIG, DIGEST = "kdbench.model", "kdbench.config", "kdbench.digest"
ERROR, COMMIT = "kdbench.error", "mlflow.source.git.commit"

# Names of parameters that are not hyper-parameters; a hyper-parameter of such a name is written as `method.<name>`.
RESERVED = (
    "method", "phase", "student", "seed", "pair", "repeat", "trial", "final", "chosen", "teacher", "init", "members",
)  # fmt: skip
SYMBOLS = {"temperature": "T", "lambda": "λ", "alpha": "α", "beta": "β", "gamma": "γ"}
LONGEST_PARAM, LONGEST_ERROR = 5000, 1000  # characters; MLflow's own limit of a parameter is 6000


@dataclass(frozen=True)
class Point:
    """One value of one metric. timestamp_ms: UTC in milliseconds since 1970. step: the epoch it belongs to."""

    name: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True)
class Payload:
    """All of a run but its latency and its artifacts, which may come later. status: FINISHED or FAILED."""

    name: str
    params: Mapping[str, str]
    points: tuple[Point, ...]
    tags: Mapping[str, str]
    status: str
    start_ms: int
    end_ms: int


def payload_of(record: TrialRecord, study: str) -> Payload:
    """The run of a record. The tag `kdbench.digest` is a hash of the whole record: equal digests, equal runs."""
    record = redacted_record(record)  # as the store has it, so that its digest is the same in the run and after it
    spec = record.spec
    start_ms, end_ms = milliseconds(record.started), milliseconds(record.ended)
    tags = {
        KEY: record.key,
        STUDY: study,
        PHASE: spec.phase,
        STATUS: record.status,
        MODEL: model_digest(spec),
        CONFIG: config_digest(spec),
        DIGEST: digest({"layout": LAYOUT, **record.to_json()}),
    }
    if record.error:
        tags[ERROR] = record.error[:LONGEST_ERROR]
    commit = (record.environment.get("git") or {}).get("commit")
    if commit:
        tags[COMMIT] = str(commit)
    return Payload(
        name=run_name(spec),
        params=params_of(spec),
        points=tuple(points_of(record, start_ms, end_ms)),
        tags=tags,
        status="FINISHED" if record.status == "finished" else "FAILED",
        start_ms=start_ms,
        end_ms=end_ms,
    )


def params_of(spec: TrialSpec) -> dict[str, str]:
    """Flat parameters: hyper-parameters under their own names, `student` as tables call it, `student.*`, `train.*`,
    `data.*`, and the slot. The same names for every method, so that MLflow can compare any runs."""
    hyper = {f"method.{name}" if name in RESERVED else name: value for name, value in spec.hyper.items()}
    plain: dict[str, Any] = {
        "method": spec.row, "phase": spec.phase, "student": model_label(spec.model), "seed": spec.seed,
        "teacher": spec.teacher, "init": spec.init,
        "members": " ".join(spec.members) or None,
        **{name: spec.slot[name] for name in ("pair", "repeat", "trial", "final", "chosen") if name in spec.slot},
        **hyper,
        **flat("student", spec.model), **flat("train", spec.train), **flat("data", spec.data),
    }  # fmt: skip
    return {name: _text(value) for name, value in plain.items() if value is not None}


def hyper_and_sizes(params: Mapping[str, str]) -> dict[str, str]:
    """Of a run's parameters, what a search chooses: hyper-parameters and sizes of the student."""
    return {
        name: value
        for name, value in params.items()
        if name.startswith(("student.", "method.")) or ("." not in name and name not in RESERVED)
    }


def points_of(record: TrialRecord, start_ms: int, end_ms: int) -> Iterable[Point]:
    """Curves at steps 1, 2, ... (epochs done), then the results; values that are no finite numbers are left out.

    A record has no time per epoch, so the points of a curve are spread evenly over the training. A result without a
    curve is at step 0, where MLflow draws bars; one with a curve is at its last epoch, and later than the curve's
    point, so that it is the value that MLflow shows.
    """
    for name, values in record.curves.items():
        for epoch, value in enumerate(values, start=1):
            if _is_finite(value):
                time_ms = start_ms + (end_ms - start_ms) * epoch // (len(values) + 1)
                yield Point(name, float(value), time_ms, epoch)
    for name, value in record.result.items():
        if _is_finite(value):
            yield Point(name, float(value), end_ms, len(record.curves.get(name, ())))


def latency_points(records: Iterable[TrialRecord]) -> dict[str, dict[str, Point]]:
    """Latencies by model digest and name. Where a model was measured more than once, the latest measurement counts."""
    out: dict[str, dict[str, Point]] = {}
    measured = (r for r in records if r.spec.phase == "latency" and r.status == "finished")
    for record in sorted(measured, key=lambda r: (milliseconds(r.ended), r.key)):
        points = out.setdefault(model_digest(record.spec), {})
        for name, value in record.result.items():
            if name.startswith("latency_") and _is_finite(value):
                points[name] = Point(name, float(value), milliseconds(record.ended), 0)
    return out


def run_name(spec: TrialSpec) -> str:
    """`kd T=4 λ=0.9 resnet8 x0.5 search r0 t3`: what a person looks for in a list of runs."""
    if spec.phase in ("teacher", "source"):
        return f"{spec.phase} {model_label(spec.model)}"
    hyper = [
        f"{SYMBOLS.get(name, name)}={value_label(value)}"
        for name, value in spec.hyper.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    slot = [
        f"{sign}{spec.slot[name]}"
        for name, sign in (("repeat", "r"), ("trial", "t"), ("final", "s"))
        if name in spec.slot
    ]
    return " ".join([spec.row, *hyper, model_label(spec.model), spec.phase, *slot])


def flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.lr": 0.1}` for `("train", {"lr": 0.1})`; inner mappings are flattened too."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}"
        out.update(flat(path, value) if isinstance(value, Mapping) else {path: value})
    return out


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def model_digest(spec: TrialSpec) -> str:
    """Names the network that is deployed: latency belongs to all runs that share it."""
    return digest(deployed(spec))


def config_digest(spec: TrialSpec) -> str:
    """Names a configuration: equal for trainings that differ in nothing but their seed."""
    return digest({"data": spec.data, "model": spec.model, "method": spec.method, "train": spec.train})


def milliseconds(iso: str) -> int:
    """UTC milliseconds since 1970 of an ISO 8601 time; a time without a zone is UTC."""
    moment = datetime.fromisoformat(iso)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else canonical_json(value))[:LONGEST_PARAM]
