"""What was asked of one training, and what came out: the only facts that tables are made of.

A `TrialSpec` says everything that decides the outcome; its key is a hash of its canonical JSON. A `TrialRecord` is one
JSON file per finished trial. Nothing here imports torch, Ray or MLflow.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from kdbench.errors import RecordError, listed

SCHEMA = 1
PROTOCOL = 1  # raised when the meaning of a result changes, so that tables never mix the two

Phase = Literal["teacher", "source", "search", "final", "evaluation", "latency"]
Status = Literal["finished", "failed", "diverged", "timed_out", "lost"]
STATUSES: tuple[str, ...] = ("finished", "failed", "diverged", "timed_out", "lost")


class ProtocolError(RecordError):
    """A record that was made under another protocol: sound, but its numbers mean something else."""


@dataclass(frozen=True)
class Metric:
    """A measured quantity: which direction is better, its unit as a person reads it, and its title in tables."""

    direction: Literal["max", "min", "none"]
    unit: str
    title: str


METRICS: dict[str, Metric] = {
    "top1_pct": Metric("max", "%", "top-1 accuracy"),
    "top5_pct": Metric("max", "%", "top-5 accuracy"),
    "nll": Metric("min", "nat", "negative log-likelihood"),
    "macro_precision_pct": Metric("max", "%", "macro precision"),
    "macro_recall_pct": Metric("max", "%", "macro recall"),
    "ece_pct": Metric("min", "%", "expected calibration error"),
    "agreement_pct": Metric("max", "%", "top-1 agreement with the teacher"),
    "best_epoch_top1_pct": Metric("max", "%", "top-1 accuracy of the best epoch"),
    "agreement_kl_nat": Metric("min", "nat", "KL divergence from the teacher"),
    "corrupted_top1_pct": Metric("max", "%", "top-1 accuracy on corrupted images"),
    "uncorrupted_top1_pct": Metric("max", "%", "top-1 accuracy on the same images uncorrupted"),
    "params": Metric("min", "", "parameters"),
    "size_bytes": Metric("min", "B", "size of the saved student"),
    "flops": Metric("min", "FLOP", "FLOPs per image (2 per multiply-add)"),
    "latency_b1_p50_ms": Metric("min", "ms", "latency, batch 1, median"),
    "latency_b1_p5_ms": Metric("min", "ms", "latency, batch 1, 5th percentile"),
    "latency_b1_p95_ms": Metric("min", "ms", "latency, batch 1, 95th percentile"),
    "latency_b256_p50_ms": Metric("min", "ms", "latency, batch 256, median"),
    "latency_b256_p5_ms": Metric("min", "ms", "latency, batch 256, 5th percentile"),
    "latency_b256_p95_ms": Metric("min", "ms", "latency, batch 256, 95th percentile"),
    "train_wall_s": Metric("min", "s", "wall time of training"),
    "train_device_s": Metric("min", "s", "training cost (wall seconds x devices)"),
}
OF_CORRUPTION = re.compile(r"corrupted_([a-z_]+)_top1_pct")


def metric(name: str) -> Metric:
    """The metric behind a result's name, with or without its split: `val_top1_pct` and `top1_pct` are the same metric.

    Of one corruption, `corrupted_fog_top1_pct`, it has the words of that. Raise KeyError for a name that is none.
    """
    for prefix in ("val_", "test_"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
    if corruption := corruption_of(name):
        return replace(METRICS["corrupted_top1_pct"], title=f"top-1 accuracy under {corruption.replace('_', ' ')}")
    return METRICS[name]


def corruption_of(name: str) -> str | None:
    """The corruption that a result is about: `fog` for `test_corrupted_fog_top1_pct`; None for any other result."""
    found = OF_CORRUPTION.fullmatch(name.removeprefix("test_"))
    return found[1] if found else None


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text on every machine. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


@dataclass(frozen=True)
class TrialSpec:
    """Everything that decides the outcome of one training.

    phase: teacher and source trainings, search trials, final retrainings, evaluations of these on corrupted images and
        against the teacher, latency measurements.
    data: `{"name", "validation", "split_seed", "crop", "flip", ...}` (kdbench/data). model: `{"name", sizes...}`.
    method: `{"name", hyper-parameters...}`; of methods joined into one `{"name": "combine", "order": [method, ...],
        "parts": {method: {hyper-parameters...}}, "weights": {method: number}}`; of a network that is not trained here
        `checkpoint` with the file's `sha256`, or `ensemble`.
    train: epochs, batch size, optimiser (kdbench/train); of an evaluation or a latency, what is measured and how.
    seed: of everything random in the training, by name (kdbench/seeds.py).
    teacher, init: keys of the specs whose trained weights are the frozen teacher and the student's start, or None.
    slot: where the trial stands in its study: the `pair`, and `repeat` and `trial` of a search, or `final` (the number
        of the fresh seed) and `chosen` (the key of the search trial that is retrained), or of an evaluation `final` and
        `of` (the key of that final training); `row` is the label of its row in the tables, where that is not the
        method's name.
    members: keys of the networks that an ensemble is made of; of an evaluation, of those that its student's method
        needs to build the student again.
    """

    phase: Phase
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    method: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    teacher: str | None = None
    init: str | None = None
    slot: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored; `members` only where there are any, so that keys of older records stay."""
        facts = asdict(self)
        members = facts.pop("members")
        return {**facts, "members": list(members)} if members else facts

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialSpec:
        """Inverse of `to_json`. Raise RecordError for missing or unknown fields."""
        known = {f.name for f in fields(cls)}
        odd = (set(value) | {"members"}) ^ known
        if odd:
            raise RecordError(
                f"a trial spec has the fields {listed(sorted(known))}; missing or unknown: {listed(sorted(odd))}"
            )
        return cls(**{**value, "members": tuple(value.get("members", ()))})

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this training: equal specs, equal keys."""
        facts = {"protocol": PROTOCOL, **{f.name: getattr(self, f.name) for f in fields(self)}}  # as to_json, uncopied
        if not self.members:
            del facts["members"]
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:16]

    @property
    def method_name(self) -> str:
        """Name of the method."""
        return str(self.method["name"])

    @property
    def row(self) -> str:
        """Label of the row of the tables that this training belongs to: by default the method's name."""
        return str(self.slot.get("row", self.method_name))

    @property
    def hyper(self) -> dict[str, Any]:
        """Hyper-parameters by public name; of methods joined into one `<method>.<name>` and `weights.<method>`."""
        if self.method_name != "combine":
            return {k: v for k, v in self.method.items() if k != "name"}
        parts = {f"{part}.{name}": v for part, hyper in self.method["parts"].items() for name, v in hyper.items()}
        return parts | {f"weights.{part}": v for part, v in self.method["weights"].items()}


@dataclass(frozen=True)
class Job:
    """A spec together with the specs of the networks that it starts from, so that a worker needs nothing else."""

    spec: TrialSpec
    teacher: TrialSpec | None = None
    init: TrialSpec | None = None
    members: tuple[TrialSpec, ...] = ()

    @property
    def needs(self) -> tuple[TrialSpec, ...]:
        """The networks whose weights must be at hand before it can run."""
        return tuple(spec for spec in (self.teacher, self.init, *self.members) if spec is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as sent to a worker."""
        single = {name: spec and spec.to_json() for name, spec in vars(self).items() if name != "members"}
        return {**single, "members": [member.to_json() for member in self.members]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """Inverse of `to_json`."""
        single = {name: spec and TrialSpec.from_json(spec) for name, spec in value.items() if name != "members"}
        return cls(**single, members=tuple(map(TrialSpec.from_json, value.get("members", ()))))


@dataclass(frozen=True)
class TrialRecord:
    """What came out of one training: written once, never changed.

    result: name -> number. Accuracy-like metrics carry their split, `val_top1_pct`, `test_top1_pct`; see METRICS.
    curves: name -> one number per epoch. environment: git state, versions, hardware, data and teacher hashes.
    attempts: how often the training was started. started, ended: UTC in ISO 8601; wall_s: from the monotonic clock.
    error: one line that says why the status is not `finished`, or None.
    """

    spec: TrialSpec
    status: Status
    result: Mapping[str, float]
    curves: Mapping[str, list[float]]
    environment: Mapping[str, Any]
    attempts: int
    started: str
    ended: str
    wall_s: float
    error: str | None = None

    @property
    def key(self) -> str:
        """The key of the spec."""
        return self.spec.key

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored: numbers that JSON cannot hold become None."""
        out = {"schema": SCHEMA, "protocol": PROTOCOL, "key": self.key, **asdict(self)}
        out["spec"] = self.spec.to_json()
        return finite(out)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialRecord:
        """Inverse of `to_json`.

        Raise RecordError for another schema, missing fields, or a key or a checksum that does not fit; ProtocolError,
        which is one too, for another protocol.
        """
        if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
            raise RecordError(f"not a record of schema {SCHEMA}")
        require_checksum(value)
        protocol = value.get("protocol")
        if type(protocol) is not int:
            raise RecordError(f"the protocol is {protocol!r}, not a whole number")
        if protocol != PROTOCOL:
            raise ProtocolError(f"made under protocol {protocol}; this kdbench has protocol {PROTOCOL}")
        body = {k: v for k, v in value.items() if k not in ("schema", "protocol", "key", "checksum")}
        known = {f.name for f in fields(cls)}
        if set(body) != known:
            raise RecordError(f"missing or unknown fields: {listed(sorted(set(body) ^ known))}")
        if body["status"] not in STATUSES:
            raise RecordError(f"status '{body['status']}' is none of {listed(STATUSES)}")
        record = cls(**{**body, "spec": TrialSpec.from_json(body["spec"])})
        if record.key != value.get("key"):
            raise RecordError(f"the key is {value.get('key')}, but the spec hashes to {record.key}")
        return record


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record's plain dictionary with a checksum of all the rest, as it is filed: a flipped bit in a number shows."""
    rest = {name: part for name, part in value.items() if name != "checksum"}
    return {**rest, "checksum": hashlib.sha256(canonical_json(rest).encode()).hexdigest()}


def require_checksum(value: Mapping[str, Any]) -> None:
    """Raise RecordError if a record's content does not fit its checksum; older records have none."""
    if "checksum" in value and with_checksum(value)["checksum"] != value["checksum"]:
        raise RecordError("the content does not fit its checksum: a part of the file was damaged, or edited by hand")


def finite(value: Any) -> Any:
    """A copy of plain values in which None stands for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
