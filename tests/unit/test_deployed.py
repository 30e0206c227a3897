"""What is deployed is what is measured: a method that changes the student has a latency of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kdbench.combine import deployed
from kdbench.method import methods
from kdbench.report.load import deployed_key
from kdbench.study.load import load_study
from kdbench.study.plan import Stream, Trials, job_of, latency_spec
from kdbench.study.schema import Study
from kdbench.testing.training import TEACHER, Bench, config_of, job_for
from kdbench.track.payload import model_digest
from kdbench.train import measure
from kdbench.train.run import run_job
from kdbench.train.student import deployed as deployed_network

STUDY = """
study: adapted
data: {name: digits}
teacher: {model: cnn, depth: 8}
student: {model: cnn, depth: 5}
methods: {scratch: , kd: , simkd: , both: {combine: [kd, simkd]}}
search: {trials: 1}
train: {epochs: 1, lr: 0.1}
"""


def study(folder: Path) -> Study:
    path = folder / "adapted.yaml"
    path.write_text(STUDY)
    return load_study(path)


def test_only_a_method_that_changes_the_student_is_measured_apart(tmp_path: Path) -> None:
    asked = study(tmp_path)
    (cell,) = asked.cells()
    trials = {row: Trials(asked, Stream(cell, row, 0)).spec(0, asked.defaults(row, cell)) for row in asked.methods}
    measured = {row: latency_spec(asked, spec) for row, spec in trials.items()}
    assert measured["kd"] == measured["scratch"]
    assert measured["kd"].method == {"name": "scratch"} and measured["kd"].teacher is None
    assert measured["simkd"].method == trials["simkd"].method
    assert len({spec.key for spec in measured.values()}) == 3
    assert job_of(asked, measured["simkd"]).teacher.key == trials["simkd"].teacher
    for row, spec in trials.items():
        assert deployed_key(spec) == deployed_key(measured[row]), "so that tables find the measurement"
        assert model_digest(spec) == model_digest(measured[row]), "and MLflow does"


def test_of_a_method_that_is_not_here_only_the_model_counts() -> None:
    spec = dataclasses.replace(job_for({"name": "kd"}).spec, method={"name": "of_another_package"})
    assert deployed(spec) == spec.model


def test_the_network_that_is_measured_is_the_one_that_was_trained(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = job_for(config_of(methods.get("simkd")()))
    trained = bench.train(job)
    timed = dataclasses.replace(job, spec=dataclasses.replace(job.spec, phase="latency", train={"threads": 1}))
    net = deployed_network(timed, bench.warm)
    assert measure.parameter_count(net) == trained.record.result["params"]
    assert measure.parameter_count(net) > measure.parameter_count(bench.warm.network(job.spec))
    *_, record = run_job(timed, bench.warm)
    assert record.status == "finished" and record.result["latency_b1_p50_ms"] > 0
    assert timed.teacher is TEACHER
