"""What ends a training, whether it is tried again, and when: faults, verdicts, pauses, and the desk that uses them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import CheckpointError, DamagedError, MethodError
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search.drive import Desk
from kdbench.search.retry import Ended, death, verdict, wait_s
from kdbench.store import Store, patiently
from kdbench.train.faults import Fault, fault_of

OUT_OF_MEMORY = Fault("memory", "MemoryError: ", "loop.py:7")
KILLED = Fault("worker", "the worker process died")
ON_DEVICE = Fault("device", "AcceleratorError: device-side assert", "loss.py:3")


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (RuntimeError("NCCL communicator was aborted"), "device"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (ConnectionError("the driver's node could not be reached"), "disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/study/records/x.json"), "disk"),
        (chained(CheckpointError("cannot be read"), OSError(errno.EIO, "Input/output error")), "disk"),
        (DamagedError("its content does not fit its checksum"), "disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "anchors.npy"), None),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere/anchors.npy"), None),
        (OSError("cannot identify image file"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("no such layer"), None),
        (MethodError("loss() must return scalars"), None),
        (CheckpointError("does not fit the model"), None),
    ],
)
def test_an_error_is_a_fault_of_the_machine_or_the_doing_of_the_method(error: Exception, kind: str | None) -> None:
    fault = fault_of(error, Path("/study"))
    assert (fault.kind if fault else None) == kind


def test_a_fault_says_what_and_where_and_survives_json() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/x/checkpoint")
    except OSError as error:
        fault = fault_of(error)
    assert fault is not None
    assert fault.reason == "OSError: [Errno 28] No space left on device: '/x/checkpoint'"
    assert fault.place.startswith("test_retry.py:")
    assert Fault.from_json(fault.to_json()) == fault


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("ActorDiedError: The actor died because its node has died. Node Id: 7", "node", "lost"),
        ("Owner worker exit type: SYSTEM_ERROR Worker exit detail: Owner's node has crashed.", "node", "lost"),
        ("OutOfMemoryError: Task was killed due to the node running low on memory.", "memory", "low on memory"),
        ("died.\nWorker exit detail: Worker unexpectedly exits with code 137. More", "worker", "code 137"),
        ("", "worker", "the worker process died"),
    ],
)
def test_the_death_of_a_worker_is_read_from_what_ray_says(text: str, kind: str, says: str) -> None:
    fault = death(text)
    assert fault.kind == kind and says in fault.reason


def test_pauses_double_and_have_an_end() -> None:
    assert [wait_s(times) for times in (1, 2, 3, 4, 9, 10, 10_000)] == [1, 2, 4, 8, 256, 300, 300]


def history(*faults: Fault, alone: bool = False) -> list[Ended]:
    return [Ended(fault, alone) for fault in faults]


def test_a_worker_that_dies_is_replaced_as_often_as_allowed() -> None:
    assert verdict(history(KILLED), 2).status == "again"
    assert verdict(history(KILLED, KILLED), 2).wait_s == 2.0
    lost = verdict(history(KILLED, KILLED, KILLED), 2)
    assert lost.status == "lost" and "start 3, resources.max_retries is 2" in lost.reason
    assert verdict(history(KILLED), 0).status == "lost"


def test_memory_that_others_took_is_tried_again_alone_and_then_counts() -> None:
    assert verdict(history(OUT_OF_MEMORY), 2).alone is False
    assert verdict(history(OUT_OF_MEMORY, OUT_OF_MEMORY), 2).alone is True
    last = [*history(OUT_OF_MEMORY, OUT_OF_MEMORY), Ended(OUT_OF_MEMORY, alone=True)]
    assert verdict(last, 2).status == "failed"
    assert verdict(history(OUT_OF_MEMORY, OUT_OF_MEMORY, OUT_OF_MEMORY), 2).status == "lost"  # never alone: unknown


def test_memory_that_does_not_suffice_twice_alone_is_the_trainings_own_doing() -> None:
    assert verdict(history(OUT_OF_MEMORY, alone=True), 9).status == "again"
    failed = verdict(history(OUT_OF_MEMORY, OUT_OF_MEMORY, alone=True), 9)
    assert failed.status == "failed" and "nothing else running" in failed.reason


def test_a_device_error_twice_at_one_place_is_the_methods() -> None:
    elsewhere = Fault("device", "x", "data.py:1")
    assert verdict(history(ON_DEVICE, elsewhere), 9).status == "again"
    assert verdict(history(ON_DEVICE, elsewhere, ON_DEVICE), 9).status == "failed"


class Plan:
    """An agenda of a few jobs that need nothing."""

    def __init__(self, *jobs: Job) -> None:
        self.todo, self.running, self.records = list(jobs), {}, {}

    def next(self) -> Job | None:
        job = self.todo.pop(0) if self.todo else None
        if job is not None:
            self.running[job.spec.key] = job.spec
        return job

    def done(self, record: TrialRecord) -> None:
        self.records[record.key] = record
        del self.running[record.key]

    @property
    def finished(self) -> bool:
        return not self.todo and not self.running


def job(seed: int) -> Job:
    named = {"name": "x"}
    return Job(TrialSpec("search", {"name": "digits"}, named, named, {"epochs": 1}, seed, slot={"row": "x"}))


def finished(spec: TrialSpec) -> TrialRecord:
    at = "2026-01-01T00:00:00+00:00"
    return TrialRecord(spec, "finished", {"val_top1_pct": 1.0}, {}, {}, 1, at, at, 0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    plan: Any = Plan(job(1), job(2), job(3))
    yield Desk(plan, Store(tmp_path), clock=Clock(), say=lambda text: None)


def test_while_a_training_waits_the_others_go_on_and_it_returns_in_time(desk: Desk) -> None:
    first, second = desk.next(), desk.next()
    assert first and second
    desk.broke(first.spec.key, KILLED)
    assert desk.pause_s == 1.0
    third = desk.next()
    assert third and third.spec.seed == 3 and desk.next() is None and not desk.over
    desk.clock.now = 1.0  # type: ignore[attr-defined]
    assert desk.next() == first
    for one in (first, second, third):
        desk.ended(finished(one.spec))
    assert desk.over
    record = desk.store.read(first.spec.key)
    assert record.status == "finished" and record.environment["retries"] == ["the worker process died"]
    assert "retries" not in desk.store.read(second.spec.key).environment


def test_a_training_that_lacks_memory_twice_waits_until_it_is_alone(desk: Desk) -> None:
    first, second = desk.next(), desk.next()
    assert first and second
    for moment in (10.0, 20.0):
        desk.broke(first.spec.key, OUT_OF_MEMORY)
        desk.clock.now = moment  # type: ignore[attr-defined]
        got = desk.next()
        if moment == 10.0:
            assert got == first
    assert got is None, "another one runs, and nothing new is started meanwhile"
    desk.ended(finished(second.spec))
    assert desk.next() == first
    desk.broke(first.spec.key, OUT_OF_MEMORY)
    assert desk.store.read(first.spec.key).status == "failed"
    assert len(desk.store.read(first.spec.key).environment["retries"]) == 2


def test_what_is_lost_with_ray_costs_no_attempt(desk: Desk) -> None:
    for _ in range(10):
        taken = [desk.next(), desk.next(), desk.next()]
        assert {one.spec.seed for one in taken if one} == {1, 2, 3}
        desk.put_back("Ray was lost")
    assert desk.store.read_all() == ({}, [])


def test_the_first_record_of_a_training_stands(desk: Desk) -> None:
    first = desk.next()
    assert first
    desk.ended(finished(first.spec))
    before = desk.store.record_path(first.spec.key).read_bytes()
    desk.ended(TrialRecord(first.spec, "lost", {}, {}, {}, 2, "2026-01-01", "2026-01-01", 0.0, "late"))
    desk.broke(first.spec.key, KILLED)
    assert desk.store.record_path(first.spec.key).read_bytes() == before


def test_a_result_that_is_no_number_is_filed_as_none(desk: Desk) -> None:
    first = desk.next()
    assert first
    odd = finished(first.spec)
    desk.ended(TrialRecord(**{**vars(odd), "result": {"val_top1_pct": float("nan")}}))
    assert desk.agenda.records[first.spec.key].result == {"val_top1_pct": None}


def test_a_full_disk_is_asked_again_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.ENOSPC, "No space left on device", "/x/r.json")] * 2
    said: list[str] = []

    def write() -> None:
        if failures:
            raise failures.pop()

    patiently(write, said.append)
    assert len(said) == 2 and said[0].startswith("/x/r.json: No space left on device. Trying again for 300 s")


def test_patience_ends_and_is_not_spent_on_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_DISK_PATIENCE_S", "0.2")
    calls: list[int] = []

    def write(number: int) -> None:
        calls.append(number)
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        patiently(lambda: write(errno.EROFS))
    assert len(calls) > 1
    calls.clear()
    with pytest.raises(OSError, match="no"):
        patiently(lambda: write(errno.EACCES))
    assert len(calls) == 1
