"""From a job to a record: how trainings end, and how they go on after a death."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import data
from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, Setup, Step, methods
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search.local import LocalExecutor
from kdbench.study.schema import Resources
from kdbench.testing.training import DATA, SOURCE, STUDENT, TEACHER, Bench, assert_same, job_for
from kdbench.train import checkpoint
from kdbench.train.run import Run, failed, run_job

SCRATCH = {"name": "scratch"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def register() -> Iterator[Callable[[type[Method]], dict[str, str]]]:
    """Register a method for the time of a test; returns it as a spec holds it."""
    names = []

    def add(cls: type[Method]) -> dict[str, str]:
        name = cls.__name__.lower()
        methods(name)(cls)
        names.append(name)
        return {"name": name}

    yield add
    for name in names:
        del methods._entries[name]


@dataclass(frozen=True)
class Base(Method):
    reads = ()
    frozen = ()

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": cross_entropy(s.student.logits, s.labels)}


@dataclass(frozen=True)
class NotANumber(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": super().loss(s)["ce"] * (math.nan if s.progress > 0.5 else 1)}


def test_a_finished_training_says_all_that_tables_need(bench: Bench) -> None:
    record = bench.train(job_for({"name": "kd"})).record
    assert record.status == "finished" and record.error is None
    assert record.attempts == 1
    result = record.result
    for split in ("val", "test"):
        for name in ("top1_pct", "top5_pct", "nll", "macro_precision_pct", "macro_recall_pct", "ece_pct"):
            assert math.isfinite(result[f"{split}_{name}"])
    assert result["epochs"] == 3
    # stem 1*4*9 + 2*4, stages 4*4*9 + 2*4, 4*8*9 + 2*8, 8*16*9 + 2*16, head 16*10 + 10
    assert result["params"] == 36 + 8 + 144 + 8 + 288 + 16 + 1152 + 32 + 170
    best = max(record.curves["val_top1_pct"])
    assert result["val_best_epoch_top1_pct"] == best
    assert record.curves["val_top1_pct"][int(result["best_epoch"]) - 1] == best
    assert {len(curve) for curve in record.curves.values()} == {3}
    environment = record.environment
    assert {"git", "versions", "hardware", "data_hash", "teacher_hash", "precision", "device"} <= set(environment)
    assert environment["train_images"] == 200
    assert environment["test_hash"] == data.load(DATA, test=True).test_hash
    assert TrialRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(("phase", "tested", "kept"), [("search", False, False), ("final", True, True)])
def test_a_search_trial_has_no_test_result_and_leaves_no_weights(
    bench: Bench, phase: str, tested: bool, kept: bool
) -> None:
    job = job_for({"name": "logit_mse"}, phase=phase)
    record = bench.record(job)
    assert any(name.startswith("test_") for name in record.result) == tested
    assert ("test_hash" in record.environment) == tested
    assert bench.store.weights_path(job.spec.key).exists() == kept


def test_a_loss_that_is_not_a_number_is_a_result(bench: Bench, register: Any) -> None:
    job = job_for(register(NotANumber), epochs=8)
    record = bench.record(job)
    assert record.status == "diverged"
    assert record.error == "the loss is not finite after epoch 5"
    assert record.result["epochs"] == 5
    assert not bench.store.weights_path(job.spec.key).exists()
    assert not any(name.startswith("test_") for name in record.result)
    assert bench.store.read(job.spec.key).curves["train_loss"][-1] is None


def test_a_huge_learning_rate_diverges(bench: Bench) -> None:
    record = bench.record(job_for(SCRATCH, lr=1e30, schedule="constant"))
    assert record.status == "diverged"
    assert record.result["epochs"] <= 3


@dataclass(frozen=True)
class InLoss(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        raise ValueError("no such layer: stage9")


@dataclass(frozen=True)
class InBuild(Base):
    def build(self, setup: Setup) -> dict[str, nn.Module]:
        setup.stage("student", "stage9")
        return {}


@dataclass(frozen=True)
class InUpdate(Base):
    def update(self, s: Step) -> dict[str, Tensor]:
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class AfterAnEpoch(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        if s.progress > 0.4:
            raise RuntimeError("late")
        return super().loss(s)


@pytest.mark.parametrize(
    ("cls", "error"),
    [
        (InLoss, "ValueError: no such layer: stage9"),
        (InBuild, "the student has no feature 'stage9'; it has stage1, stage2, stage3, pooled, logits"),
        (InUpdate, "ZeroDivisionError: division by zero"),
        (AfterAnEpoch, "RuntimeError: late"),
    ],
)
def test_whatever_a_method_raises_is_its_result(bench: Bench, register: Any, cls: type[Method], error: str) -> None:
    record = bench.record(job_for(register(cls)))
    assert (record.status, record.error) == ("failed", error)
    assert record.result == {}
    assert record.attempts == 1
    lines = record.environment["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1].endswith(error)
    assert any(line.startswith('  File "kdbench/train/run.py", line ') for line in lines)


def test_an_error_of_many_lines_is_one_line_in_the_record_and_whole_in_the_traceback() -> None:
    try:
        raise ValueError("sizes differ:\n  student  8\n\n  teacher 16")
    except ValueError as error:
        record = failed(job_for(SCRATCH).spec, error, 0.0, [])
    assert record.error == "ValueError: sizes differ: student 8 teacher 16"
    assert record.environment["traceback"].endswith("ValueError: sizes differ:\n  student  8\n\n  teacher 16\n")


def test_an_error_that_was_never_raised_has_no_traceback() -> None:
    assert "traceback" not in failed(job_for(SCRATCH).spec, RuntimeError("no worker"), 0.0, [], "lost").environment


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"train": {"epoch": 3}}, "unknown training setting 'epoch'. Did you mean 'epochs'?"),
        ({"method": {"name": "nothing"}}, "unknown method 'nothing'"),
        ({"data": {"name": "nothing"}}, "nothing"),
        ({"model": {"name": "cnn", "depth": 6}}, "the depth of cnn is 3n+2"),
    ],
)
def test_a_spec_that_cannot_be_run_is_a_failed_training(bench: Bench, changes: dict[str, Any], error: str) -> None:
    values = {"data": DATA, "model": STUDENT, "method": SCRATCH, "train": {"epochs": 1}, "seed": 0, **changes}
    record = bench.record(Job(TrialSpec("search", **values)))
    assert record.status == "failed"
    assert error in (record.error or "")


@pytest.mark.parametrize("error", [MemoryError("out"), OSError(28, "No space left on device")])
def test_errors_of_the_machine_are_raised_because_another_try_may_help(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Run, "advance", broken)
    with pytest.raises(type(error)):
        list(run_job(job_for(SCRATCH, seed=50), bench.shop()))


@dataclass
class Desk:
    """Hands out jobs and keeps what comes back."""

    jobs: list[Job]
    points: list[Mapping[str, float]] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    pause_s = None

    def next(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        self.points.append(point)

    def ended(self, record: TrialRecord) -> None:
        self.records.append(record)

    def beside(self, job: Job, most: int, workers: int) -> list[Job]:
        return []

    def broke(self, key: str, fault: Any, together: bool = False) -> None:
        self.faults[key] = fault.reason


def test_trainings_that_fail_diverge_or_are_lost_do_not_stop_the_others(
    bench: Bench, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job_for(register(InLoss)), job_for(register(NotANumber)), job_for(SCRATCH, lr=0.01), job_for(SCRATCH)]
    lost, epoch = jobs[2].spec.key, Run.advance

    def advance(self: Run) -> dict[str, float]:
        if self.spec.key == lost:
            raise OSError(28, "No space left on device")
        return epoch(self)

    monkeypatch.setattr(Run, "advance", advance)
    desk: Any = Desk(list(jobs))
    LocalExecutor(Resources(), bench.store).run(desk)
    assert [record.status for record in desk.records] == ["failed", "diverged", "finished"]
    assert list(desk.faults) == [lost]
    assert "No space left on device" in desk.faults[lost]
    assert len(desk.points) == 2 + 3  # the second epoch of the second, and three of the last


def test_a_time_limit_ends_a_training(bench: Bench) -> None:
    job = job_for(SCRATCH, time_limit_s=1e-6)
    record = bench.record(job)
    assert record.status == "timed_out"
    assert re.fullmatch(r"stopped after \d+ s, the limit is 1e-06 s", record.error or "")
    assert record.result["epochs"] == 1
    assert not bench.store.weights_path(job.spec.key).exists()
    assert bench.record(job_for(SCRATCH, time_limit_s=1e6)).status == "finished"


def test_a_limit_that_passes_in_the_last_epoch_is_no_time_out(bench: Bench) -> None:
    assert bench.record(job_for(SCRATCH, epochs=1, time_limit_s=1e-6)).status == "finished"


def test_reaching_the_target_is_a_finish(bench: Bench) -> None:
    record = bench.train(job_for(SCRATCH, epochs=50, target_top1_pct=0.5)).record
    assert record.result["epochs"] < 50
    assert record.result["val_top1_pct"] >= 0.5


def test_every_start_is_counted(bench: Bench) -> None:
    job = job_for(SCRATCH, seed=11)
    bench.begin(job, 1)
    bench.begin(job, 1)
    record = bench.record(job)
    assert record.attempts == 3
    assert record.started < record.ended
    assert not bench.store.work_folder(job.spec.key).exists()


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_same_end(bench: Bench) -> None:
    job = job_for({"name": "kd"}, epochs=40)
    whole = bench.train(job)
    code = """
import sys
from pathlib import Path
from kdbench.testing.training import Bench, job_for
from kdbench.train.run import Run
run = Run(job_for({"name": "kd"}, epochs=40), Bench(Path(sys.argv[1])).shop())
while not run.over:
    run.advance()
    print(run.training.epochs_done, flush=True)
"""
    arguments = [sys.executable, "-c", code, str(bench.store.folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.strip() == "7":
                process.kill()  # SIGKILL, at whatever it is doing by now
    assert process.returncode == -signal.SIGKILL
    run = Run(job, bench.shop())
    assert 7 <= run.training.epochs_done < 40
    assert_same(bench.train(job), whole, "killed")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 16  # within the numbers of a tensor, where safetensors does not look
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_method(path: Path) -> None:
    tensors, facts = checkpoint.load(path)
    checkpoint.save(path, {**tensors, "aux.more.weight": torch.zeros(1)}, facts)


def without_facts(path: Path) -> None:
    checkpoint.save(path, checkpoint.load(path)[0], {})


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, of_another_method, without_facts])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_again(
    bench: Bench, damage: Callable[[Path], None]
) -> None:
    job = job_for({"name": "fitnet"})
    whole = bench.train(job)
    path = bench.begin(job, 2)
    damage(path)
    run = Run(job, bench.shop())
    assert run.training.epochs_done == 0
    assert path.with_suffix(".damaged").exists() and not path.exists()
    again = bench.begin(job, 1)  # the fact must outlive one more death
    assert again == path
    redone = bench.train(job)
    assert_same(redone, whole, damage.__name__)
    assert str(path) in redone.record.environment["checkpoint_set_aside"]
    assert "checkpoint_set_aside" not in whole.record.environment


def test_an_undamaged_checkpoint_is_gone_on_from(bench: Bench) -> None:
    job = job_for({"name": "fitnet"})
    bench.begin(job, 2)
    assert Run(job, bench.shop()).training.epochs_done == 2
    bench.train(job)


def test_a_training_that_diverged_before_it_died_is_still_diverged(bench: Bench, register: Any) -> None:
    job = job_for(register(NotANumber))
    bench.begin(job, 2)
    run = Run(job, bench.shop())
    assert run.over
    assert bench.record(job).status == "diverged"


def test_records_name_the_weights_that_a_training_started_from(bench: Bench) -> None:
    from kdbench.train.workshop import file_hash

    environment = bench.train(job_for({"name": "finetune"})).record.environment
    assert environment["init_hash"] == file_hash(bench.store.weights_path(SOURCE.key))
    assert "teacher_hash" not in environment
    environment = bench.train(job_for({"name": "kd"})).record.environment
    assert environment["teacher_hash"] == file_hash(bench.store.weights_path(TEACHER.key))


def test_a_latency_job_measures_and_trains_nothing(bench: Bench) -> None:
    spec = TrialSpec("latency", DATA, STUDENT, SCRATCH, {"threads": 1, "repeats": 5, "max_s": 1.0}, 0)
    record = bench.record(Job(spec))
    assert record.status == "finished"
    assert record.result["latency_b1_p50_ms"] > 0
    assert record.environment["latency"]["threads"] == 1
    assert record.curves == {}
