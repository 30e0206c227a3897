"""Real trainings on handwritten digits, small enough for a test, and what the trainer must do with every method.

`check_training(methods.get("mine"), folder)` runs all of them on one method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.fields import fields_of
from kdbench.method import Method, methods
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.store import Store
from kdbench.testing.declaration import variants
from kdbench.train import checkpoint
from kdbench.train.recipe import Recipe
from kdbench.train.run import Run, run_job
from kdbench.train.student import training_of
from kdbench.train.workshop import Workshop

DATA = {"name": "digits", "validation": 180, "train": 200}
TRAIN: dict[str, Any] = {"epochs": 3, "optimizer": "sgd", "batch_size": 64, "lr": 0.05, "precision": "fp32"}
STUDENT = {"name": "cnn", "depth": 5, "width": 0.25}
CLOCK = ("epoch_wall_s", "train_wall_s", "train_device_s")


def network_spec(phase: Any, **changes: Any) -> TrialSpec:
    """A network that others start from."""
    values = {"data": DATA, "model": STUDENT, "method": {"name": "scratch"}, "train": TRAIN, "seed": 1, **changes}
    return TrialSpec(phase, **values)


TEACHER = network_spec("teacher", model={**STUDENT, "width": 0.5})
SOURCE = network_spec("source", data={**DATA, "rotate": 90})


def job_for(method: Mapping[str, Any], phase: Any = "final", seed: int = 7, **train: Any) -> Job:
    """A training of a method on digits. method: `{"name", hyper-parameters...}`. train: replaces settings of TRAIN."""
    kind = methods.get(method["name"])
    teacher = TEACHER if "teacher" in kind.frozen else None
    init = SOURCE if kind.starts_from == "source" else None
    spec = TrialSpec(
        phase=phase,
        data={**DATA, "unlabelled": 100} if kind.unlabelled else DATA,
        model={"name": kind.student_family} if kind.student_family else STUDENT,
        method=method,
        train={**TRAIN, **train},
        seed=seed,
        teacher=None if teacher is None else teacher.key,
        init=None if init is None else init.key,
    )
    return Job(spec, teacher, init)


@dataclass(frozen=True)
class Trained:
    """A finished training: its record, and the student's weights."""

    record: TrialRecord
    weights: Mapping[str, Tensor]


class Bench:
    """The folder of a study in which trainings are run one by one, with a teacher and a source network.

    warm: a worker that keeps what it has loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.warm = self.shop()
        for spec in (TEACHER, SOURCE):
            if not self.store.weights_path(spec.key).exists():
                self.train(Job(spec), self.warm)

    def shop(self) -> Workshop:
        """A worker that has loaded nothing yet."""
        return Workshop(self.store, torch.device("cpu"))

    def train(self, job: Job, shop: Workshop | None = None) -> Trained:
        """Run a job to its end, or go on with it, and file its record. Raise AssertionError if it did not finish."""
        record = self.record(job, shop)
        assert record.status == "finished", f"{job.spec.method_name}: {record.status}, {record.error}"
        return Trained(record, checkpoint.load(self.store.weights_path(job.spec.key))[0])

    def record(self, job: Job, shop: Workshop | None = None) -> TrialRecord:
        """Run a job to whatever end, or go on with it, and file its record."""
        *_, record = run_job(job, shop or self.shop())
        assert isinstance(record, TrialRecord)
        self.store.write(record)
        return record

    def begin(self, job: Job, epochs: int) -> Path:
        """Train some epochs and stop, as a worker that dies; returns the path of the checkpoint that is left."""
        run = Run(job, self.warm)
        for _ in range(epochs):
            run.advance()
        return run.checkpoint


def check_training(cls: type[Method], folder: Path) -> None:
    """Run every check of a method in the trainer, in each of its forms. Raise AssertionError that names what fails."""
    bench = Bench(folder)
    for name, method in variants(cls).items():
        config = config_of(method)
        try:
            check_trained_parts_move(bench, config)
            check_teacher_stays(bench, config)
            for optimizer in ("sgd", "adamw"):
                check_resume_equals_uninterrupted(bench, config, optimizer=optimizer)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def check_resume_equals_uninterrupted(bench: Bench, method: Mapping[str, Any], **train: Any) -> None:
    """A training that died after each of its epochs ends in the same weights, curves and results, bit for bit."""
    job = job_for(method, **train)
    whole = bench.train(job, bench.warm)
    for epochs in range(1, job.spec.train["epochs"]):
        bench.begin(job, epochs)
        assert_same(bench.train(job), whole, f"{job.spec.train['optimizer']}, died after epoch {epochs}")


def check_trained_parts_move(bench: Bench, method: Mapping[str, Any]) -> None:
    """The optimiser has every parameter of the method's own modules and peers, and an epoch changes each of them;
    what the method freezes stays, with its statistics."""
    job = job_for(method)
    training = training_of(job, bench.warm, Recipe.from_json(job.spec.train), "fp32")
    own = {f"{role}.{name}": p for role, net in training.nets.items() for name, p in net.named_parameters()}
    own |= {f"aux.{name}": p for name, p in training.aux.named_parameters()}
    optimised = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in own.items()}
    training.epoch()
    for name, parameter in own.items():
        moved = not torch.equal(parameter, before[name])
        frozen = not parameter.requires_grad
        assert (id(parameter) in optimised) != frozen, f"{name}: is it in the optimiser? Frozen: {frozen}"
        assert moved != frozen, f"{name}: has it moved in an epoch? {moved}. Frozen: {frozen}"


def check_teacher_stays(bench: Bench, method: Mapping[str, Any]) -> None:
    """After a training the teacher's weights and statistics are what they were, in memory and on disk."""
    shop, path = bench.shop(), bench.store.weights_path(TEACHER.key)
    teacher, stored = shop.teacher(TEACHER, "fp32").net, path.read_bytes()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    bench.train(job_for(method), shop)
    assert not any(module.training for module in teacher.modules()), "the teacher is not in eval mode"
    assert path.read_bytes() == stored, "the teacher's file has changed"
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), f"a training changed {name} of the teacher"


def assert_same(one: Trained, other: Trained, what: str) -> None:
    """Raise AssertionError unless weights, curves and results are equal to the bit, but for the time they took."""
    assert set(one.weights) == set(other.weights), f"{what}: the weights have other names"
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), f"{what}: the weight {name} differs"
    for part in ("curves", "result"):
        left, right = timeless(getattr(one.record, part)), timeless(getattr(other.record, part))
        assert left == right, f"{what}: {part} differ: {left} and {right}"


def timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Curves or results as text, which makes NaN equal to NaN, without those that depend on the clock."""
    return {name: repr(value) for name, value in values.items() if name not in CLOCK}


def config_of(method: Method) -> dict[str, Any]:
    """A method as a spec holds it: its name and all hyper-parameters."""
    declared = fields_of(type(method)).values()
    return {"name": method.name, **{field.name: getattr(method, field.attribute) for field in declared}}
