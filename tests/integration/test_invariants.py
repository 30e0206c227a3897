"""The checks behind the soak find what they are there for: each has a violation that is planted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from invariants import alive, left_behind, outcome, too_often, unlike, unmirrored, unsettled
from optuna.trial import TrialState
from small import kdbench_cli, write_study

from kdbench.record import TrialRecord
from kdbench.search import propose
from kdbench.session import read_only
from kdbench.store import Store
from kdbench.track.mlflow import Experiment
from kdbench.track.payload import KEY, Point

SHORT = [
    "--set", "source=null", "--set", "methods={scratch: {}, kd: {}}", "--set", "train.epochs=1", "--set",
    "final.seeds=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    result = kdbench_cli("run", write_study(folder), "--results", folder, *SHORT)
    assert result.exit_code == 0, result.output
    return folder / "small"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(finished, tmp_path / "small")
    return tmp_path / "small"


def one(folder: Path, phase: str = "search") -> TrialRecord:
    return min((r for r in read_only(folder).values() if r.spec.phase == phase), key=lambda record: record.key)


def test_nothing_is_wrong_with_a_study_that_nobody_disturbed(copy: Path, finished: Path) -> None:
    assert unlike(copy, finished) == unsettled(copy) == left_behind(copy, []) == []


def test_a_record_that_is_altered_at_the_end_is_found_though_its_checksum_fits(copy: Path, finished: Path) -> None:
    record = one(copy)
    value = record.result["val_top1_pct"]
    Store(copy).write(replace(record, result={**record.result, "val_top1_pct": value + 1e-9}))
    (line,) = unlike(copy, finished)
    assert line.startswith(f"{record.key}: result is ") and str(value + 1e-9) in line


def test_other_weights_of_the_teacher_are_found_and_times_are_not_compared(copy: Path, finished: Path) -> None:
    record = next(r for r in read_only(copy).values() if r.spec.teacher is not None)
    later = replace(record, wall_s=99.0, attempts=3, result={**record.result, "train_wall_s": 99.0})
    Store(copy).write(later)
    assert unlike(copy, finished) == []
    Store(copy).write(replace(later, environment={**record.environment, "teacher_hash": "0" * 64}))
    (line,) = unlike(copy, finished)
    assert line.startswith(f"{record.key}: environment is ")


def test_missing_and_additional_trainings_are_found(copy: Path, finished: Path) -> None:
    key = one(copy).key
    Store(copy).record_path(key).unlink()
    assert unlike(copy, finished) == [f"{key}: missing, a search training"]
    assert unlike(finished, copy) == [f"{key}: a training that the undisturbed run has not"]
    assert unsettled(copy) != []


def test_of_a_latency_the_names_count(finished: Path) -> None:
    record = one(finished, "latency")
    other = replace(record, result={name: 2 * value for name, value in record.result.items()})
    assert outcome(other) == outcome(record)
    assert outcome(replace(record, result={})) != outcome(record)


def test_a_training_that_was_finished_twice_needs_a_reason() -> None:
    assert too_often({"a": 1, "b": 2, "c": 3}, {"b": 1, "c": 1}) == [
        "c: finished 3 times, and there was a reason for 1 more than one"
    ]


def test_a_trial_that_optuna_believes_to_run_is_found(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = one(copy)
    Store(copy).write(replace(record, status="failed", result={}, error="planted"))
    assert not any("RUNNING" in line for line in unsettled(copy))
    monkeypatch.setitem(propose.STATES, "fail", TrialState.RUNNING)
    number = record.spec.slot["trial"]
    assert [line for line in unsettled(copy) if line.endswith(f"trial {number} is RUNNING")]


@pytest.mark.slow
def test_runs_of_mlflow_that_are_not_as_the_records_are_found(copy: Path) -> None:
    stored = json.loads((copy / "study.json").read_text())
    stored["track"]["mlflow"] = "auto"
    (copy / "study.json").write_text(json.dumps(stored))
    assert unmirrored(copy) == []
    experiment, record = Experiment(copy), one(copy)
    run = next(run for run in experiment.runs() if run.data.tags.get(KEY) == record.key)
    experiment.log(run.info.run_id, [Point("val_top1_pct", 1.5, run.info.end_time + 1, 99)])
    stray = experiment.create("stray", 0, {KEY: "0" * 16})
    lines = unmirrored(copy)
    assert f"MLflow: run {stray.info.run_id} is RUNNING" in lines
    assert f"MLflow: a run of {'0' * 16}, of which there is no record" in lines
    wanted = f"MLflow: {record.key}: val_top1_pct is 1.5, the record has {record.result['val_top1_pct']}"
    assert wanted in lines


def test_what_a_run_leaves_is_found(copy: Path) -> None:
    key = one(copy).key
    (copy / "work" / key).mkdir(parents=True)
    aside = Store(copy).set_aside(Store(copy).record_path(key))
    Store(copy).set_aside(aside.replace(Store(copy).record_path(key)))
    name = f"records/quarantine/{key}.json"
    assert left_behind(copy, []) == [f"work/{key} is left", f"{name} was set aside, and nobody had damaged it"]
    assert left_behind(copy, [f"{key}.json"]) == [f"work/{key} is left"]
    with Store(copy).lock():
        assert left_behind(copy, [f"{key}.json"])[0].startswith("the lock is held by process ")


def test_a_process_that_lives_on_is_found() -> None:
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env={"KDBENCH_PLANTED": "here"}) as process:
        assert alive("KDBENCH_PLANTED", "elsewhere", seconds=0) == []
        (line,) = alive("KDBENCH_PLANTED", "here", seconds=0)
        assert line.startswith(f"process {process.pid} lives on: ")
        process.kill()
    assert alive("KDBENCH_PLANTED", "here", seconds=5) == []
