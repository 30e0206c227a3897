"""Jobs that train nothing: networks from elsewhere that are tested, ensembles, latency."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.train import checkpoint, measure
from kdbench.train.environment import environment_of
from kdbench.train.loop import logits_of
from kdbench.train.metrics import evaluate
from kdbench.train.recipe import resolve_precision
from kdbench.train.starts import note_start, utc_now
from kdbench.train.student import deployed
from kdbench.train.workshop import TEST_PHASES, Workshop


def record_untrained(job: Job, shop: Workshop) -> TrialRecord:
    """Test a network that is not trained here: one from a checkpoint, or an ensemble, which is joined first."""
    spec = job.spec
    starts, began = note_start(shop.store.work_folder(spec.key)), time.monotonic()
    if spec.method_name == "ensemble":
        join_members(job, shop)
    net, splits = shop.trained(spec, "network"), shop.splits(spec.data)
    precision = resolve_precision("auto", shop.device)
    labels = shop.labels(spec.data, "validation")
    result: dict[str, float] = {
        "params": measure.parameter_count(net),
        "size_bytes": measure.size_bytes(net),
        "flops": measure.flops(net, splits.image_shape),
    }
    logits = logits_of(net, shop.views(spec.data, "validation"), precision)
    result |= {f"val_{name}": value for name, value in evaluate(logits, labels, None).items()}
    facts = {"device": str(shop.device), "precision": precision, "data_hash": splits.hash}
    if spec.phase in TEST_PHASES:
        views, labels, facts["test_hash"] = shop.test(spec)
        metrics = evaluate(logits_of(net, views, precision), labels, None)
        result |= {f"test_{name}": value for name, value in metrics.items()}
    return measured(spec, result, facts, starts, began)


def join_members(job: Job, shop: Workshop) -> None:
    """Store the weights of all members of an ensemble as those of one network."""
    tensors = {
        f"members.{number}.{name}": tensor
        for number, member in enumerate(job.members)
        for name, tensor in shop.weights(member, "member").items()
    }
    checkpoint.save(shop.store.weights_path(job.spec.key), tensors, {"spec": job.spec.to_json()}, durable=True)


def measure_latency(job: Job, shop: Workshop) -> TrialRecord:
    """Measure the latency of the job's student. The caller sees to it that nothing else runs on the device."""
    spec = job.spec
    starts = note_start(shop.store.work_folder(spec.key))
    began = time.monotonic()
    result, conditions = measure.latency(
        deployed(job, shop), shop.splits(spec.data).image_shape, device=shop.device, **spec.train
    )
    return measured(spec, result, {"latency": conditions}, starts, began)


def measured(
    spec: TrialSpec, result: Mapping[str, float], facts: Mapping[str, Any], starts: list[str], began: float
) -> TrialRecord:
    """The record of a job that trains nothing. began: on the monotonic clock."""
    return TrialRecord(
        spec=spec,
        status="finished",
        result=result,
        curves={},
        environment={**environment_of(spec), **facts},
        attempts=len(starts),
        started=starts[0],
        ended=utc_now(),
        wall_s=round(time.monotonic() - began, 3),
    )
