"""What a record becomes in MLflow, as plain values: no MLflow is needed here."""

import math
from dataclasses import replace

import pytest

from kdbench.labels import model_label
from kdbench.record import METRICS, TrialRecord, TrialSpec, metric
from kdbench.track.parents import Child, parent_of, summary_of
from kdbench.track.payload import (
    hyper_and_sizes,
    latency_points,
    milliseconds,
    params_of,
    payload_of,
    run_name,
)


def spec_of(phase: str = "search", **changes: object) -> TrialSpec:
    slot = {
        "search": {"pair": "resnet56 -> resnet", "repeat": 0, "trial": 3},
        "final": {"pair": "resnet56 -> resnet", "final": 2, "chosen": "c" * 16},
    }
    spec = TrialSpec(
        phase=phase,  # type: ignore[arg-type]
        data={"name": "cifar10", "validation": 5000},
        model={"name": "resnet", "depth": 8, "width": 0.5},
        method={"name": "kd", "temperature": 4.0, "lambda": 0.9},
        train={"epochs": 2, "lr": 0.1, "schedule": "cosine"},
        seed=7,
        teacher="a" * 16,
        slot=slot.get(phase, {}),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def record_of(spec: TrialSpec, **changes: object) -> TrialRecord:
    record = TrialRecord(
        spec=spec,
        status="finished",
        result={"val_top1_pct": 61.5, "params": 19_000, "size_bytes": 80_000},
        curves={"train_loss": [2.0, 1.5], "val_top1_pct": [40.0, 61.5]},
        environment={"git": {"commit": "0123abc", "dirty": False}},
        attempts=1,
        started="2026-11-21T08:00:00+00:00",
        ended="2026-11-21T08:00:30+00:00",
        wall_s=30.0,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def child(**changes: object) -> Child:
    spec = changes.pop("spec", spec_of("final"))
    payload = payload_of(record_of(spec), "study")  # type: ignore[arg-type]
    metrics = {"val_top1_pct": 61.5, "test_top1_pct": 60.0, **changes.pop("metrics", {})}  # type: ignore[dict-item]
    tags = {**payload.tags, **changes.pop("tags", {})}  # type: ignore[dict-item]
    return Child(metrics, payload.params, tags, payload.end_ms)


def test_the_name_of_a_run_says_method_hyper_parameters_model_and_slot() -> None:
    assert run_name(spec_of()) == "kd T=4 λ=0.9 resnet8 x0.5 search r0 t3"
    assert run_name(spec_of("final")) == "kd T=4 λ=0.9 resnet8 x0.5 final s2"
    assert run_name(spec_of("teacher", model={"name": "resnet", "depth": 56})) == "teacher resnet56"


def test_a_run_names_its_model_as_the_tables_do() -> None:
    for model in ({"name": "mlp", "hidden": 64}, {"name": "wrn", "depth": 16, "width": 1.0}, {"name": "vgg"}):
        assert run_name(spec_of("source", model=model)) == f"source {model_label(model)}"
    assert model_label({"name": "mlp", "hidden": 64}) == "mlp hidden=64"


def test_large_whole_numbers_are_written_out_in_a_name() -> None:
    spec = spec_of(method={"name": "attention_transfer", "beta": 1000})
    assert run_name(spec) == "attention_transfer β=1000 resnet8 x0.5 search r0 t3"


def test_parameters_are_flat_and_hyper_parameters_keep_their_own_names() -> None:
    assert params_of(spec_of()) == {
        "method": "kd",
        "phase": "search",
        "student": "resnet8 x0.5",
        "seed": "7",
        "teacher": "a" * 16,
        "pair": "resnet56 -> resnet",
        "repeat": "0",
        "trial": "3",
        "temperature": "4.0",
        "lambda": "0.9",
        "student.name": "resnet",
        "student.depth": "8",
        "student.width": "0.5",
        "train.epochs": "2",
        "train.lr": "0.1",
        "train.schedule": "cosine",
        "data.name": "cifar10",
        "data.validation": "5000",
    }


def test_a_hyper_parameter_named_like_the_slot_does_not_hide_it() -> None:
    params = params_of(spec_of(method={"name": "mine", "seed": 3}))
    assert (params["seed"], params["method.seed"]) == ("7", "3")
    assert "method.seed" in hyper_and_sizes(params) and "seed" not in hyper_and_sizes(params)


def test_curves_are_at_the_epochs_done_and_a_result_is_the_latest_value_of_its_curve() -> None:
    payload = payload_of(record_of(spec_of()), "study")
    curve = [(p.value, p.step) for p in payload.points if p.name == "val_top1_pct"]
    assert curve == [(40.0, 1), (61.5, 2), (61.5, 2)]
    times = [p.timestamp_ms - payload.start_ms for p in payload.points if p.name == "val_top1_pct"]
    assert times == [10_000, 20_000, 30_000]
    assert [(p.value, p.step) for p in payload.points if p.name == "params"] == [(19_000.0, 0)]


def test_every_final_figure_is_called_what_the_record_calls_it() -> None:
    payload = payload_of(record_of(spec_of()), "study")
    names = {p.name for p in payload.points}
    assert {"val_top1_pct", "params", "size_bytes"} <= names
    assert all(metric(name) in METRICS.values() for name in names - {"train_loss"})


def test_numbers_that_are_not_finite_are_left_out() -> None:
    record = record_of(
        spec_of(),
        status="diverged",
        error="loss is nan",
        result={"val_top1_pct": None, "params": 5},
        curves={"train_loss": [2.0, None, math.nan, math.inf]},
    )
    payload = payload_of(record, "study")
    assert [(p.name, p.value) for p in payload.points] == [("train_loss", 2.0), ("params", 5.0)]
    assert (payload.status, payload.tags["kdbench.status"]) == ("FAILED", "diverged")
    assert payload.tags["kdbench.error"] == "loss is nan"


def test_the_digest_changes_with_the_record_and_not_with_its_way_through_json() -> None:
    record = record_of(spec_of(), result={"val_top1_pct": math.nan, "params": 5})
    again = TrialRecord.from_json(record.to_json())
    assert payload_of(again, "s").tags["kdbench.digest"] == payload_of(record, "s").tags["kdbench.digest"]
    other = replace(record, wall_s=31.0)
    assert payload_of(other, "s").tags["kdbench.digest"] != payload_of(record, "s").tags["kdbench.digest"]


def test_a_time_without_a_zone_is_utc() -> None:
    assert milliseconds("1970-01-01T00:00:01") == 1000
    assert milliseconds("1970-01-01T00:00:01Z") == 1000
    assert milliseconds("1970-01-01T01:00:01+01:00") == 1000


def test_the_latest_latency_of_a_model_counts_and_failed_measurements_do_not() -> None:
    spec = spec_of("latency", method={"name": "none"}, train={})
    early = record_of(spec, result={"latency_b1_p50_ms": 3.0, "params": 9})
    late = record_of(replace(spec, seed=8), result={"latency_b1_p50_ms": 2.0}, ended="2026-11-21T09:00:00+00:00")
    failed = record_of(replace(spec, seed=9), status="failed", result={"latency_b1_p50_ms": 1.0}, ended="2027-01-01")
    (points,) = latency_points([late, failed, early]).values()
    assert {name: point.value for name, point in points.items()} == {"latency_b1_p50_ms": 2.0}


def test_search_and_final_runs_of_a_method_and_pair_share_a_parent_and_teachers_have_their_own() -> None:
    assert parent_of(spec_of()) == parent_of(spec_of("final"))
    assert parent_of(spec_of()).name == "kd: resnet56 -> resnet"
    assert parent_of(spec_of("teacher")).key == "teacher"
    assert parent_of(spec_of(slot={"pair": "wrn -> vgg"})).key != parent_of(spec_of()).key


def test_a_parent_shows_the_means_of_the_finals_and_their_hyper_parameters() -> None:
    children = [child(metrics={"test_top1_pct": 60.0}), child(metrics={"test_top1_pct": 61.0}), child(spec=spec_of())]
    summary = summary_of(children)
    assert summary is not None
    assert summary.metrics == {"val_top1_pct": 61.5, "test_top1_pct": 60.5, "n_finals": 2.0, "n_failed": 0.0}
    assert summary.tags == {
        "best.temperature": "4.0",
        "best.lambda": "0.9",
        "best.student.name": "resnet",
        "best.student.depth": "8",
        "best.student.width": "0.5",
    }
    assert summary.status == "FINISHED"


def test_the_configuration_a_parent_shows_is_chosen_on_validation_never_on_test() -> None:
    small = child(metrics={"val_top1_pct": 70.0, "test_top1_pct": 69.0})
    big_spec = spec_of("final", model={"name": "resnet", "depth": 20})
    big = child(spec=big_spec, metrics={"val_top1_pct": 69.0, "test_top1_pct": 80.0})
    summary = summary_of([small, big])
    assert summary is not None
    assert summary.metrics["test_top1_pct"] == 69.0


def test_failed_finals_are_counted_and_not_averaged() -> None:
    failed = child(tags={"kdbench.status": "diverged"}, metrics={"test_top1_pct": 10.0})
    summary = summary_of([child(), failed])
    assert summary is not None
    assert (summary.metrics["test_top1_pct"], summary.metrics["n_finals"], summary.metrics["n_failed"]) == (60.0, 1, 1)
    only_failed = summary_of([failed])
    assert only_failed is not None
    assert (only_failed.status, only_failed.metrics) == ("FAILED", {"n_finals": 0.0, "n_failed": 1.0})


def test_a_parent_has_no_figures_before_the_first_final_but_it_ends() -> None:
    summary = summary_of([child(spec=spec_of())])
    assert summary is not None
    assert (summary.metrics, summary.tags, summary.status) == ({}, {}, "FINISHED")
    assert summary_of([]) is None


@pytest.mark.parametrize("error", ["x" * 100_000])
def test_a_long_error_fits_into_a_tag(error: str) -> None:
    assert len(payload_of(record_of(spec_of(), status="failed", error=error), "s").tags["kdbench.error"]) == 1000
