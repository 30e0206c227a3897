"""Trainings that share a stream: each comes out as it does alone, whatever the others do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import plugins
from kdbench.data.views import Views
from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, Setup, Step, methods
from kdbench.nets.base import Network
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search.drive import Desk
from kdbench.search.streams import AUTO, group_size, most_at_once, stream_name
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.testing.training import DATA, STUDENT, TEACHER, Bench, job_for, timeless
from kdbench.train import checkpoint
from kdbench.train import shared as shared_module
from kdbench.train.faults import Fault
from kdbench.train.run import CHECKPOINT, Run, run_job
from kdbench.train.shared import SHARED, Meter, SharedTeacher, SharedViews
from kdbench.train.splitting import ONE, Spread
from kdbench.train.stream import run_stream
from kdbench.train.teachers import LiveTeacher
from kdbench.train.workshop import Workshop

ATTENTION, FITNET, FSP = {"name": "attention_transfer"}, {"name": "fitnet"}, {"name": "fsp"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@dataclass(frozen=True)
class Outcome:
    """How a training ended, without the time that it took."""

    status: str
    error: str | None
    result: dict[str, str]
    curves: dict[str, str]
    weights: dict[str, Tensor]


@dataclass
class Runs:
    """Runs jobs in folders of their own that share the bench's trained networks. known: how jobs end alone, by key."""

    bench: Bench
    folder: Path
    known: dict[str, Outcome]
    count: int = 0

    def shop(self) -> Workshop:
        self.count += 1
        store = Store(self.folder / str(self.count))
        path = store.weights_path(TEACHER.key)
        path.parent.mkdir(parents=True)
        path.write_bytes(self.bench.store.weights_path(TEACHER.key).read_bytes())
        return Workshop(store, torch.device("cpu"))

    @staticmethod
    def outcome(record: TrialRecord, shop: Workshop) -> Outcome:
        path = shop.store.work_folder(record.key) / CHECKPOINT
        weights = checkpoint.load(path)[0] if path.exists() else {}
        result, curves = timeless(record.result), timeless(record.curves)
        return Outcome(record.status, record.error, result, curves, weights)

    def alone(self, job: Job) -> Outcome:
        if job.spec.key not in self.known:
            shop = self.shop()
            *_, record = run_job(job, shop)
            assert isinstance(record, TrialRecord)
            self.known[job.spec.key] = self.outcome(record, shop)
        return self.known[job.spec.key]

    def together(self, jobs: Sequence[Job], shop: Workshop | None = None) -> dict[str, TrialRecord]:
        shop = shop or self.shop()
        return {key: item for key, item in run_stream(jobs, shop) if isinstance(item, TrialRecord)}

    def assert_as_alone(self, jobs: Sequence[Job], shop: Workshop | None = None) -> dict[str, TrialRecord]:
        """Run side by side, and raise AssertionError unless each is to the bit what it is alone."""
        shop = shop or self.shop()
        records = self.together(jobs, shop)
        assert sorted(records) == sorted(job.spec.key for job in jobs)
        for job in jobs:
            expected, got = self.alone(job), self.outcome(records[job.spec.key], shop)
            name = job.spec.method_name
            assert replace(got, weights={}) == replace(expected, weights={}), name
            assert got.weights.keys() == expected.weights.keys(), name
            for part, tensor in expected.weights.items():
                assert tensor.isnan().any() or torch.equal(tensor, got.weights[part]), f"{name}: {part}"
        return records


@pytest.fixture(scope="module")
def known() -> dict[str, Outcome]:
    return {}


@pytest.fixture
def runs(bench: Bench, tmp_path: Path, known: dict[str, Outcome]) -> Runs:
    return Runs(bench, tmp_path, known)


@pytest.fixture
def register() -> Iterator[Callable[[type[Method]], dict[str, str]]]:
    """Register a method for the time of a test; returns it as a spec holds it."""
    names = []

    def add(cls: type[Method]) -> dict[str, str]:
        methods(cls.__name__.lower())(cls)
        names.append(cls.__name__.lower())
        return {"name": names[-1]}

    yield add
    for name in names:
        del methods._entries[name]


def trial(method: dict[str, Any], width: float = 0.25, **train: Any) -> Job:
    """A search trial on digits; those of one seed see the same batches."""
    job = job_for(method, "search", **{"epochs": 2, **train})
    return Job(replace(job.spec, model={**STUDENT, "width": width}), job.teacher, job.init)


@dataclass(frozen=True)
class Base(Method):
    """Reads a feature map, so that its teacher runs live."""

    reads = ("features",)

    def loss(self, s: Step) -> dict[str, Tensor]:
        ce = cross_entropy(s.student.logits, s.labels)
        return {"ce": ce, "mean": (s.target.features["stage2"].mean() - s.student.features["stage2"].mean()).square()}


@dataclass(frozen=True)
class WithDropout(Base):
    """Draws from the global generator within the step, as networks with dropout do."""

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"head": nn.Sequential(nn.Dropout(0.5), nn.Linear(setup.student["pooled"][0], setup.classes))}

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {**super().loss(s), "dropped": cross_entropy(s.aux["head"](s.student.pooled), s.labels)}


def test_trainings_side_by_side_are_to_the_bit_what_each_is_alone(runs: Runs, register: Any) -> None:
    dropout = register(WithDropout)
    jobs = [
        trial(ATTENTION), trial(FITNET, width=0.5, lr=0.01), trial(FSP, optimizer="adamw", lr=0.001),
        trial(dropout), trial(dropout, clip_norm=0.1), trial({"name": "pkt"}), trial({"name": "scratch"}),
    ]  # fmt: skip
    records = runs.assert_as_alone(jobs)
    assert all(record.status == "finished" for record in records.values())
    assert all(record.environment["stream"] == {"students": 7} for record in records.values())


def test_they_are_in_float64_too(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, network = Views.batch, Workshop.network

    def double(self: Workshop, spec: TrialSpec, role: str = "student") -> Network:
        return network(self, spec, role).double()

    runs.known = {}
    monkeypatch.setattr(Views, "batch", lambda self, index, view: batch(self, index, view).double())
    monkeypatch.setattr(Workshop, "network", double)
    jobs = [trial(ATTENTION), trial(FSP, lr=0.02)]
    shop = runs.shop()
    runs.assert_as_alone(jobs, shop)
    weights = checkpoint.load(shop.store.work_folder(jobs[0].spec.key) / CHECKPOINT)[0]
    assert weights["student.head.weight"].dtype == torch.float64


def test_another_batch_would_be_noticed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "same_place", lambda one, other: one is not None)  # as if all were one batch
    with pytest.raises(AssertionError):
        runs.assert_as_alone([trial(ATTENTION), trial(FSP)])


def test_teacher_and_images_are_computed_once_for_all(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    teacher, images = LiveTeacher.__call__, Views.batch

    def counted_teacher(self: LiveTeacher, *arguments: Tensor) -> Any:
        calls.append("teacher")
        return teacher(self, *arguments)

    def counted_images(self: Views, index: Tensor, view: Tensor) -> Tensor:
        if self.count > 1 and len(index) in (64, 8):  # 200 training images make batches of 64, 64, 64 and 8
            calls.append("images")
        return images(self, index, view)

    monkeypatch.setattr(LiveTeacher, "__call__", counted_teacher)
    monkeypatch.setattr(Views, "batch", counted_images)
    runs.together([trial(ATTENTION), trial(FSP), trial(FITNET)])
    assert (calls.count("teacher"), calls.count("images")) == (2 * 4, 2 * 4)


@dataclass(frozen=True)
class NotANumber(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": super().loss(s)["ce"] * (math.nan if s.progress > 0.6 else 1)}


@dataclass(frozen=True)
class InTheMiddle(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        if s.progress > 0.6:
            raise ValueError("in the middle of the second epoch")
        return super().loss(s)


@dataclass(frozen=True)
class InBuild(Base):
    def build(self, setup: Setup) -> dict[str, nn.Module]:
        raise KeyError("before the first step")


@dataclass(frozen=True)
class WritesToOutputs(Base):
    """Around all that the guard looks at; alone, it harms nobody but itself."""

    def loss(self, s: Step) -> dict[str, Tensor]:
        s.target.features["stage2"].data.mul_(2)
        s.target.logits.data.zero_()
        s.index.data.zero_()
        return super().loss(s)


@dataclass(frozen=True)
class ChangesSettings(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        if s.progress > 0.3:
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(1)
        return super().loss(s)


@dataclass(frozen=True)
class TurnsGradientsOff(Base):
    def update(self, s: Step) -> dict[str, Tensor]:
        torch.autograd.set_detect_anomaly(True)
        return {}


@pytest.mark.parametrize(
    ("neighbour", "status"),
    [
        (NotANumber, "diverged"), (InTheMiddle, "failed"), (InBuild, "failed"), (WritesToOutputs, "finished"),
        (ChangesSettings, "failed"), (TurnsGradientsOff, "failed"),
    ],
)  # fmt: skip
def test_what_a_neighbour_does_changes_nothing(runs: Runs, register: Any, neighbour: Any, status: str) -> None:
    odd = trial(register(neighbour))
    records = runs.assert_as_alone([trial(ATTENTION), odd, trial(FSP)])
    assert records[odd.spec.key].status == status


@dataclass(frozen=True)
class ChangesTheTeacher(Base):
    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"teacher": Holder(setup.networks["teacher"])}

    def loss(self, s: Step) -> dict[str, Tensor]:
        if s.progress > 0.6:
            next(s.aux["teacher"].held[0].parameters()).data.mul_(1.5)
        return super().loss(s)


class Holder(nn.Module):
    """Holds a network without registering it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.held, self.own = [net], nn.Linear(1, 1)


def test_a_neighbour_that_changes_the_teacher_is_found_and_harms_nobody(runs: Runs, register: Any) -> None:
    first, odd, last = trial(ATTENTION), trial(register(ChangesTheTeacher)), trial(FSP)
    records = runs.assert_as_alone([first, odd, last])
    assert "changed the weights of the teacher" in str(records[odd.spec.key].error)
    assert records[first.spec.key].status == records[last.spec.key].status == "finished"


def test_after_a_plugin_broke_off_the_others_start_again_from_their_checkpoints(
    runs: Runs, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, other, last = trial(register(InTheMiddle)), trial(ATTENTION), trial(FSP)
    monkeypatch.setattr(plugins, "loaded", lambda: True)  # it may have changed anything
    records = runs.assert_as_alone([odd, other, last])
    assert records[odd.spec.key].attempts == 1
    assert records[other.spec.key].attempts == 2 and records[other.spec.key].environment["stream"] == {"students": 2}


def test_those_that_are_behind_catch_up_first(runs: Runs) -> None:
    jobs = [trial(ATTENTION, epochs=3), trial(FSP, epochs=3), trial(FITNET, epochs=3)]
    shop = runs.shop()
    for job, epochs in zip(jobs, (2, 0, 1), strict=True):
        run = Run(job, shop)
        for _ in range(epochs):
            run.advance()
    order = [key for key, item in run_stream(jobs, shop) if not isinstance(item, TrialRecord)]
    one, two, three = (job.spec.key for job in jobs)
    assert order == [two, two, three, one, two, three]
    runs.assert_as_alone(jobs)


def test_a_fault_of_the_machine_is_everybodys_and_they_go_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, shop, keep = [trial(ATTENTION), trial(FSP)], runs.shop(), Run.keep

    def broken(self: Run) -> None:
        keep(self)
        if self.job == jobs[1]:
            raise MemoryError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Run, "keep", broken)
        runs.together(jobs, shop)
    records = runs.assert_as_alone(jobs, shop)
    assert {record.attempts for record in records.values()} == {2}


@dataclass(frozen=True)
class Hanging(Base):
    def loss(self, s: Step) -> dict[str, Tensor]:
        if s.progress > 0.6:
            time.sleep(60)
        return super().loss(s)


def test_each_has_its_own_time_limit(runs: Runs, register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_GRACE_S", "0.5")
    hanging = trial(register(Hanging), time_limit_s=4)
    slow, other = trial(FSP, time_limit_s=1e-6), trial(ATTENTION)
    began = time.monotonic()
    records = runs.together([hanging, slow, other])
    elapsed = time.monotonic() - began
    assert [records[job.spec.key].status for job in (hanging, slow, other)] == ["timed_out", "timed_out", "finished"]
    assert "line" in str(records[hanging.spec.key].error) and records[slow.spec.key].result["epochs"] == 1
    assert records[other.spec.key].wall_s < elapsed - 3  # what a neighbour spends is not charged to it


def test_what_each_took_is_its_own_and_a_part_of_what_was_shared(runs: Runs) -> None:
    began = time.monotonic()
    records = runs.together([trial(ATTENTION), trial(FSP), trial(FSP, lr=0.01)]).values()
    elapsed = time.monotonic() - began
    for record in records:
        assert 0 < sum(record.curves["epoch_wall_s"]) <= record.wall_s
        assert record.result["train_wall_s"] == pytest.approx(sum(record.curves["epoch_wall_s"]), abs=1e-3)
    assert sum(record.wall_s for record in records) <= elapsed + 0.01


def test_time_is_charged_to_one_account_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(shared_module.time, "monotonic", lambda: now[0])
    meter = Meter()
    with meter.charge("one"):
        now[0] = 1.0
        with meter.charge(SHARED):
            now[0] = 3.0
        now[0] = 7.0
    now[0] = 100.0
    assert (meter.seconds("one"), meter.seconds(SHARED), meter.seconds("other")) == (5.0, 2.0, 0.0)


def test_a_batch_is_remembered_until_another_one_or_a_change_to_it() -> None:
    images = torch.randint(256, (20, 4, 4, 1), dtype=torch.uint8)
    views = Views(images, 1, False, (0.5,), (0.3,))
    shared = SharedViews(views, Meter())
    index, view = torch.arange(20), torch.arange(20) % 9
    first = shared.batch(index[:8], view[:8])
    assert shared.batch(index[:8].clone(), view[:8]) is first
    assert torch.equal(shared.batch(index[8:16], view[8:16]), views.batch(index[8:16], view[8:16]))
    again = shared.batch(index[:8], view[:8])
    assert again is not first and torch.equal(again, first)
    again.zero_()
    assert torch.equal(shared.batch(index[:8], view[:8]), first)
    assert shared.count == views.count and len(shared) == 20 and shared.image_shape == (1, 4, 4)


def test_a_teacher_is_asked_again_about_images_that_are_not_the_remembered_ones(bench: Bench) -> None:
    live = bench.warm.teacher(TEACHER, "fp32")
    teacher = SharedTeacher(live, Meter())
    views = bench.warm.views(DATA, "train")
    index = torch.arange(4)
    one, other = views.plain(index), views.plain(index + 4)
    assert torch.equal(teacher(one, index, index).logits, live(one, index, index).logits)
    assert torch.equal(teacher(other, index, index).logits, live(other, index, index).logits)
    outputs = teacher(other, index, index)
    assert list(outputs.features) == list(live(other, index, index).features) and len(outputs.features) == 3
    assert outputs.features["stage1"].stride() == live(other, index, index).features["stage1"].stride()


# Which share, and how many.


def test_trials_of_methods_that_read_feature_maps_share_and_no_others() -> None:
    name = stream_name(trial(ATTENTION).spec)
    assert name is not None
    for alike in (trial(FITNET), trial(FSP, width=0.5), trial(ATTENTION, lr=0.5, weight_decay=0.0)):
        assert stream_name(alike.spec) == name
    one = trial(ATTENTION).spec
    for other in (
        replace(one, seed=8), replace(one, teacher="0" * 16), replace(one, data={**DATA, "train": 100}),
        trial(ATTENTION, batch_size=32).spec, trial(ATTENTION, epochs=9).spec, trial(ATTENTION, time_limit_s=5).spec,
    ):  # fmt: skip
        assert stream_name(other) not in (None, name)
    for method in ({"name": "kd"}, {"name": "scratch"}, {"name": "sskd"}):
        assert stream_name(trial(method).spec) is None
    for phase in ("final", "teacher", "source"):
        assert stream_name(replace(one, phase=phase)) is None


def test_without_the_cache_methods_on_logits_share_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "off")
    assert stream_name(trial({"name": "kd"}).spec) == stream_name(trial(ATTENTION).spec) is not None
    assert stream_name(trial({"name": "scratch"}).spec) is None


@pytest.mark.parametrize(
    ("alike", "startable", "workers", "most", "size"),
    [
        (1, 1, 1, 8, 1), (5, 5, 1, 8, 5), (20, 20, 1, 8, 8), (4, 4, 2, 8, 2), (5, 5, 2, 8, 3),
        (4, 12, 2, 8, 4),  # the others have enough to do
        (3, 3, 16, 8, 1), (9, 9, 1, 1, 1),
    ],
)  # fmt: skip
def test_a_group_leaves_no_worker_idle(alike: int, startable: int, workers: int, most: int, size: int) -> None:
    assert group_size(alike, startable, workers, most) == size


def test_the_study_says_how_many_share_at_most() -> None:
    assert most_at_once(Resources(), ONE) == AUTO == 8
    assert most_at_once(Resources(students_per_stream=3), ONE) == 3
    assert most_at_once(Resources(), Spread(2)) == 1
    with pytest.raises(ValueError, match="students_per_stream"):
        Resources(students_per_stream=0)


class Open:
    """An agenda of trials that could all start now."""

    def __init__(self, *jobs: Job, budget_s: float | None = None, objective: str = "val_top1_pct") -> None:
        self.jobs = {job.spec.key: job for job in jobs}
        self.running: dict[str, Any] = {}
        self.records: dict[str, TrialRecord] = {}
        self.budget = SimpleNamespace(seconds=budget_s)
        self.study = SimpleNamespace(search=SimpleNamespace(objectives=("params", objective)))

    def startable(self) -> list[TrialSpec]:
        return [job.spec for key, job in self.jobs.items() if key not in self.running and key not in self.records]

    def hand_out(self, spec: TrialSpec) -> Job:
        self.running[spec.key] = spec
        return self.jobs[spec.key]

    def next(self) -> Job | None:
        return self.hand_out(self.startable()[0]) if self.startable() else None


def of_trial(number: int) -> Job:
    job = trial(ATTENTION, lr=0.1 / (1 + number))
    return Job(replace(job.spec, slot={"trial": number // 3}), job.teacher)


def desk_of(tmp_path: Path, **agenda: Any) -> Desk:
    plan: Any = Open(*map(of_trial, range(6)), **agenda)
    return Desk(plan, Store(tmp_path), clock=lambda: 1e9, say=lambda text: None)


def test_a_desk_hands_out_those_that_share(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    first = desk.next()
    assert first is not None
    assert desk.beside(first, most=1, workers=1) == []
    others = desk.beside(first, most=4, workers=1)
    assert [first, *others] == [of_trial(number) for number in range(4)]
    assert set(desk.at_work) == {job.spec.key for job in (first, *others)}


def test_where_time_is_an_objective_none_share(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, objective="train_wall_s")
    first = desk.next()
    assert first is not None and desk.beside(first, most=8, workers=1) == []


def test_within_a_budget_they_are_of_one_round(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, budget_s=100.0)
    first = desk.next()
    assert first is not None
    assert desk.beside(first, most=8, workers=1) == [of_trial(1), of_trial(2)]


def test_after_a_fault_each_starts_by_itself_but_not_after_one_of_ray(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    first = desk.next()
    assert first is not None
    desk.beside(first, most=3, workers=1)
    desk.put_back("Ray was lost")
    again = desk.next()
    assert again == first and desk.beside(again, most=3, workers=1) == [of_trial(1), of_trial(2)]
    for key in list(desk.at_work):
        desk.broke(key, Fault("worker", "the worker process died"), together=True)
    now, desk.clock = 1e9 + 2, lambda: now
    third = desk.next()
    assert third == first and desk.beside(third, most=8, workers=1) == []


def test_memory_that_a_group_lacked_was_not_lacked_alone(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    first = desk.next()
    assert first is not None
    for _ in range(2):
        desk.broke(first.spec.key, Fault("memory", "MemoryError"), together=True)
        assert desk.waiting, "it is tried again, and not counted as too large"
        desk.at_work[first.spec.key] = desk.waiting.pop().job
