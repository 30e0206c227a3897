"""The mirror on a real MLflow store in sqlite, copied from one whose tables were made once."""

import importlib.util
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord, TrialSpec
from kdbench.track.background import BackgroundMirror
from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.mlflow import METRICS_PER_BATCH, Experiment, available, require_writable, without_password

PAIR = "resnet56 -> resnet"


def search(trial: int, temperature: float = 4.0, **changes: Any) -> TrialRecord:
    spec = TrialSpec(
        phase="search",
        data={"name": "digits", "validation": 300},
        model={"name": "resnet", "depth": 8, "width": 0.5},
        method={"name": "kd", "temperature": temperature, "lambda": 0.9},
        train={"epochs": 3, "lr": 0.1},
        seed=trial,
        slot={"pair": PAIR, "repeat": 0, "trial": trial},
    )
    record = TrialRecord(
        spec=spec,
        status="finished",
        result={"val_top1_pct": 90.0 + trial, "params": 19_000},
        curves={"train_loss": [2.0, 1.0, 0.5], "val_top1_pct": [50.0, 80.0, 90.0 + trial]},
        environment={},
        attempts=1,
        started="2026-11-21T08:00:00+00:00",
        ended="2026-11-21T08:01:00+00:00",
        wall_s=60.0,
    )
    return replace(record, **changes)


def final(seed: int, test_top1_pct: float = 88.0) -> TrialRecord:
    base = search(0)
    spec = replace(base.spec, phase="final", seed=100 + seed, slot={"pair": PAIR, "final": seed, "chosen": "c" * 16})
    return replace(base, spec=spec, result={**base.result, "test_top1_pct": test_top1_pct})


def latency(p50_ms: float = 1.5) -> TrialRecord:
    base = search(0)
    spec = replace(base.spec, phase="latency", method={"name": "none"}, train={}, slot={})
    return replace(base, spec=spec, result={"latency_b1_p50_ms": p50_ms}, curves={})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    Experiment(path.parent, f"sqlite:///{path}").connect()
    return path


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    return folder


def by_key(mirror: Mirror) -> dict[str, Any]:
    runs = [run for run in mirror.experiment.runs() if "kdbench.key" in run.data.tags]
    keys = [run.data.tags["kdbench.key"] for run in runs]
    assert len(set(keys)) == len(keys), "a key has two runs"
    return dict(zip(keys, runs, strict=True))


def parents(mirror: Mirror) -> dict[str, Any]:
    runs = [run for run in mirror.experiment.runs() if "kdbench.parent" in run.data.tags]
    assert len({run.data.tags["kdbench.parent"] for run in runs}) == len(runs), "a parent is there twice"
    return {run.data.tags["kdbench.parent"]: run for run in runs}


def test_a_record_becomes_a_child_run_with_curves_parameters_times_and_tags(folder: Path) -> None:
    mirror = Mirror(folder)
    assert mirror.write(search(3)) == "created"
    run = by_key(mirror)[search(3).key]
    assert run.info.run_name == "kd T=4 λ=0.9 resnet8 x0.5 search r0 t3"
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 60_000)
    assert run.data.params["temperature"] == "4.0" and run.data.params["student.depth"] == "8"
    assert run.data.metrics == {"train_loss": 0.5, "val_top1_pct": 93.0, "params": 19_000}
    history = mirror.experiment.connect().get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    parent = parents(mirror)[f"kd|{PAIR}"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.data.tags["kdbench.study"], run.data.tags["kdbench.phase"]) == ("digits", "search")


def test_writing_a_record_again_changes_nothing_even_from_another_mirror(folder: Path) -> None:
    Mirror(folder).write(search(0))
    mirror = Mirror(folder)
    assert [mirror.write(search(0)), mirror.write(search(0))] == ["unchanged", "unchanged"]
    assert len(by_key(mirror)) == 1


def test_sync_creates_what_is_missing_and_a_second_sync_changes_nothing(folder: Path) -> None:
    mirror = Mirror(folder)
    mirror.write(search(0))
    records = [search(0), search(1), final(0), final(1), latency()]
    assert mirror.sync(records) == SyncReport(created=3, updated=1, unchanged=0)  # the first lacked its latency
    before = {run.info.run_id: run.to_dictionary() for run in mirror.experiment.runs()}
    assert Mirror(folder).sync(records) == SyncReport(created=0, updated=0, unchanged=4)
    assert {run.info.run_id: run.to_dictionary() for run in mirror.experiment.runs()} == before


@pytest.mark.parametrize("call", ["create", "log", "attach", "end"])
def test_a_run_that_was_cut_off_in_mid_write_is_completed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    weights = folder / "weights" / f"{final(0).key}.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    mirror = Mirror(folder)
    mirror.write(search(0))  # the parent is there

    def cut(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise ConnectionError("cut off")

    real = getattr(mirror.experiment, call)
    monkeypatch.setattr(mirror.experiment, call, cut)
    with pytest.raises(KdbenchError, match="cut off"):
        mirror.write(final(0))
    later = Mirror(folder)
    later.sync([search(0), final(0)])
    run = by_key(later)[final(0).key]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_top1_pct"] == 88.0 and run.data.tags["kdbench.weights"] == weights.name
    assert parents(later)[f"kd|{PAIR}"].data.metrics["n_finals"] == 1
    assert later.sync([search(0), final(0)]) == SyncReport(0, 0, 2)


def test_two_runs_of_one_key_become_one(folder: Path) -> None:
    mirror = Mirror(folder)
    mirror.write(search(0))
    mirror.experiment.create("double", 0, {"kdbench.key": search(0).key})
    assert mirror.sync([search(0)]) == SyncReport(0, 1, 0)
    assert by_key(mirror)[search(0).key].info.run_name != "double"


def test_a_record_that_was_replaced_gets_a_new_run(folder: Path) -> None:
    mirror = Mirror(folder)
    mirror.write(replace(search(0), status="lost", result={}, curves={"train_loss": [2.0, 1.0, 0.5, 0.4]}))
    assert mirror.sync([search(0)]) == SyncReport(0, 1, 0)
    run = by_key(mirror)[search(0).key]
    assert (run.info.status, run.data.metrics["train_loss"]) == ("FINISHED", 0.5)


def test_a_run_or_experiment_deleted_by_hand_comes_back(folder: Path) -> None:
    mirror = Mirror(folder)
    mirror.sync([search(0), search(1)])
    mirror.experiment.delete(by_key(mirror)[search(0).key].info.run_id)
    mirror.experiment.delete(parents(mirror)[f"kd|{PAIR}"].info.run_id)
    assert mirror.sync([search(0), search(1)]) == SyncReport(1, 1, 0)
    run = by_key(mirror)[search(1).key]
    assert run.data.tags["mlflow.parentRunId"] == parents(mirror)[f"kd|{PAIR}"].info.run_id
    mirror.experiment.connect().delete_experiment(mirror.experiment.id)
    Mirror(folder).sync([search(0), search(1)])
    assert len(by_key(Mirror(folder))) == 2


def test_a_parent_follows_its_finals_and_takes_the_study_file(folder: Path) -> None:
    (folder / "study.yaml").write_text("study: digits\n")
    mirror = Mirror(folder)
    mirror.write(search(0))
    assert parents(mirror)[f"kd|{PAIR}"].info.status == "RUNNING"
    mirror.write(final(0, 88.0))
    mirror.write(final(1, 86.0))
    parent = parents(mirror)[f"kd|{PAIR}"]
    assert (parent.data.metrics["test_top1_pct"], parent.data.metrics["n_finals"]) == (87.0, 2.0)
    assert (parent.data.tags["best.temperature"], parent.info.status) == ("4.0", "FINISHED")
    artifacts = mirror.experiment.connect().list_artifacts(parent.info.run_id)
    assert [a.path for a in artifacts] == ["study.yaml"]


def test_weights_are_kept_with_finals_and_not_with_search_trials(folder: Path) -> None:
    (folder / "weights").mkdir()
    for record in (search(0), final(0)):
        (folder / "weights" / f"{record.key}.safetensors").write_bytes(b"weights")
    mirror = Mirror(folder)
    mirror.sync([search(0), final(0), final(1)])
    client = mirror.experiment.connect()
    runs = by_key(mirror)
    stored = {key: [a.path for a in client.list_artifacts(run.info.run_id, "weights")] for key, run in runs.items()}
    assert stored == {
        search(0).key: [],
        final(0).key: [f"weights/{final(0).key}.safetensors"],
        final(1).key: [],  # trained on another machine: its weights are not here
    }
    (folder / "weights" / f"{final(0).key}.safetensors").unlink()
    assert mirror.sync([search(0), final(0), final(1)]).updated == 0


def test_latency_reaches_the_runs_of_its_model_and_their_parent(folder: Path) -> None:
    mirror = Mirror(folder)
    other = replace(final(7), spec=replace(final(7).spec, model={"name": "vgg", "depth": 8}))
    mirror.sync([final(0), other])
    assert [mirror.write(latency()), mirror.write(latency())] == ["updated", "unchanged"]
    runs = by_key(mirror)
    assert runs[final(0).key].data.metrics["latency_b1_p50_ms"] == 1.5
    assert "latency_b1_p50_ms" not in runs[other.key].data.metrics
    assert mirror.write(final(1)) == "created"
    assert by_key(mirror)[final(1).key].data.metrics["latency_b1_p50_ms"] == 1.5


def test_long_curves_take_more_than_one_batch_and_none_is_lost(folder: Path) -> None:
    curves = {f"curve_{i}": [float(e) for e in range(300)] for i in range(6)}
    assert sum(map(len, curves.values())) > 2 * METRICS_PER_BATCH
    mirror = Mirror(folder)
    mirror.write(search(0, curves=curves))
    run = by_key(mirror)[search(0).key]
    for name in curves:
        assert len(mirror.experiment.connect().get_metric_history(run.info.run_id, name)) == 300


def test_a_store_of_a_folder_that_was_moved_is_refused(folder: Path) -> None:
    Mirror(folder).write(search(0))
    away = folder.parent / "away" / "digits"
    shutil.copytree(folder, away)
    with pytest.raises(KdbenchError, match=r"written for another folder .* `kdbench sync`"):
        Mirror(away).write(search(0))


def test_the_description_of_the_experiment_is_the_studys_question(folder: Path) -> None:
    (folder / "study.json").write_text('{"study": "digits", "question": "Which is best?"}')
    mirror = Mirror(folder)
    experiment = mirror.experiment.connect().get_experiment(mirror.experiment.id)
    assert experiment.tags["mlflow.note.content"] == "Which is best?"


def test_an_unusable_store_is_one_line_that_names_it_without_the_password(folder: Path) -> None:
    with pytest.raises(KdbenchError) as caught:
        Mirror(folder, "nonsense://me:secret@host/db").write(search(0))
    message = str(caught.value)
    assert message.startswith("MLflow at nonsense://me:***@host/db: ") and "\n" not in message
    assert without_password("sqlite:///x.db") == "sqlite:///x.db"


def test_a_missing_mlflow_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(KdbenchError, match=r"kdbench\[mlflow\]"):
        Mirror(folder).write(search(0))
    monkeypatch.undo()
    assert available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not available()


def test_importing_the_mirror_imports_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, kdbench.track.background, kdbench.track.server; "
        "sys.exit(bool({'mlflow', 'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- in the background ------------------------------------------------------------------------------------------


class Slow:
    """Stands for a store that hangs until it is released."""

    def __init__(self, fails_with: Exception | None = None) -> None:
        self.release = threading.Event()
        self.calls = 0
        self.fails_with = fails_with

    def write(self, record: TrialRecord) -> None:
        self.calls += 1
        if self.fails_with:
            raise self.fails_with
        self.release.wait(20)

    sync = write


@pytest.fixture
def hanging(folder: Path) -> Iterator[tuple[BackgroundMirror, Slow]]:
    background, slow = BackgroundMirror(folder), Slow()
    background._mirror = slow  # type: ignore[assignment]
    yield background, slow
    slow.release.set()
    if background._thread:
        background._thread.join(10)


def test_the_background_mirror_writes_all_it_was_given(folder: Path) -> None:
    background = BackgroundMirror(folder)
    background.sync([search(0), search(1), latency()])
    background.write(final(0))
    assert background.close() == ()
    assert background.error is None
    assert set(by_key(Mirror(folder))) == {search(0).key, search(1).key, final(0).key}


def test_close_without_a_record_starts_nothing(folder: Path) -> None:
    background = BackgroundMirror(folder)
    background.sync([])
    assert background.close() == ()
    assert background._thread is None


def test_a_store_that_hangs_delays_neither_the_caller_nor_the_end(
    hanging: tuple[BackgroundMirror, Slow],
) -> None:
    background, _ = hanging
    begin = time.monotonic()
    background.write(search(0))
    background.write(search(1))
    assert time.monotonic() - begin < 0.5
    assert background.close(timeout=0.2) == (search(0).key, search(1).key)
    assert time.monotonic() - begin < 2
    background.write(search(2))  # after close: dropped without an error


def test_the_first_error_is_logged_once_and_later_records_wait(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    background = BackgroundMirror(folder)
    broken = Slow(RuntimeError("no space\nleft"))
    background._mirror = broken  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "kdbench.track"):
        for trial in range(3):
            background.write(search(trial))
        unwritten = background.close(5)
    assert unwritten == tuple(search(trial).key for trial in range(3))
    assert (background.error, broken.calls) == ("no space left", 1)
    assert [r.getMessage() for r in caplog.records] == [
        "MLflow lacks what comes now, and the study goes on (later: kdbench sync): no space left"
    ]


def test_a_store_that_comes_back_gets_what_it_missed(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.track.background.PAUSE_S", 0.2)
    background = BackgroundMirror(folder)
    broken = Slow(RuntimeError("gone"))
    background._mirror = broken  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "kdbench.track"):
        background.write(search(0))
        while background.error is None:
            time.sleep(0.01)
        background.write(search(1))
        background.write(latency())
        deadline = time.monotonic() + 20
        while background._pending and time.monotonic() < deadline:
            time.sleep(0.05)
        assert background.close() == ()
    assert (background.error, broken.calls) == (None, 1)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "MLflow lacks what comes now, and the study goes on (later", "MLflow can be written again, and lacks nothing",
    ]  # fmt: skip
    runs = by_key(Mirror(folder))
    assert set(runs) == {search(0).key, search(1).key}
    assert all(run.data.metrics["latency_b1_p50_ms"] == 1.5 for run in runs.values())


def test_waiting_before_measurements_has_a_bound_for_the_whole_study(
    hanging: tuple[BackgroundMirror, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    background, _ = hanging
    background._patience_s = 0.3
    background.write(search(0))
    begin = time.monotonic()
    for _ in range(10):
        background.settle()
    assert 0.3 <= time.monotonic() - begin < 1.5


def test_a_locked_or_damaged_database_is_said_at_once(folder: Path) -> None:
    path = folder / "mlflow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(KdbenchError, match=r"database is locked \(another process holds it: wait"):
            require_writable(f"sqlite:///{path}", patience_s=0.1)
    require_writable(f"sqlite:///{path}")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(KdbenchError, match=r"file is not a database \(see that .* delete it and run kdbench sync"):
        Mirror(folder).write(search(0))


def test_after_sync_no_run_is_running_though_no_final_is_there(folder: Path) -> None:
    mirror = Mirror(folder)
    mirror.write(search(0))
    assert {run.info.status for run in mirror.experiment.runs()} == {"FINISHED", "RUNNING"}
    assert mirror.sync([search(0)]) == SyncReport(0, 0, 1)
    assert {run.info.status for run in mirror.experiment.runs()} == {"FINISHED"}


def test_a_missing_mlflow_does_not_stop_the_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    background = BackgroundMirror(folder)
    background.write(search(0))
    assert background.close(5) == (search(0).key,)
    assert background.error is not None and "kdbench[mlflow]" in background.error
