"""What a study would run, and about how long that takes, from a few measured steps."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdbench.labels import seconds_label
from kdbench.method import methods
from kdbench.record import Job, TrialSpec
from kdbench.search.agenda import Agenda
from kdbench.search.capacity import cores, workers_for
from kdbench.session import read_only
from kdbench.store import Store
from kdbench.study.plan import Stream, job_of, search_spec, source_spec, streams, teacher_spec
from kdbench.study.schema import Cell, Study
from kdbench.terminal import describe
from kdbench.train import checkpoint
from kdbench.train.recipe import Recipe, resolve_precision
from kdbench.train.run import training_of
from kdbench.train.workshop import Workshop

STEPS = 5


@dataclass(frozen=True)
class Plan:
    """What is left to run. `trainings` lists those whose values are known by now; later ones depend on results.

    counts: trainings that are left, by stage. seconds: about how long they take on one worker by stage, or None.
    """

    study: str
    counts: dict[str, int]
    trainings: list[TrialSpec]
    seconds: dict[str, float] | None
    workers: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        known = [{"key": spec.key, **spec.to_json()} for spec in self.trainings]
        return {
            "study": self.study,
            "counts": self.counts,
            "seconds_on_one_worker": self.seconds,
            "workers": self.workers,
            "known_trainings": known,
        }

    def text(self) -> str:
        """The plan for a person."""
        lines = [f"{self.study}: {sum(self.counts.values())} trainings to go"]
        for stage, count in self.counts.items():
            took = "" if self.seconds is None else f", about {seconds_label(self.seconds[stage])} on one worker"
            lines.append(f"  {stage}: {count}{took if count else ''}")
        if self.seconds is not None:
            total = sum(self.seconds.values()) / self.workers
            lines.append(f"  in all about {seconds_label(total)} on {self.workers} workers")
        lines += ["Known by now (later trials follow from the results of these):"]
        lines += [f"  {spec.key} {describe(spec)} {settings(spec)}" for spec in self.trainings]
        return "\n".join(lines)


def settings(spec: TrialSpec) -> str:
    """Hyper-parameters and model of a training, `name=value`."""
    pairs = {**spec.hyper, **{k: v for k, v in spec.model.items() if k != "name"}, "lr": spec.train.get("lr")}
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs.items()
    )


def describe_plan(study: Study, folder: Path, *, probe: bool) -> Plan:
    """The plan of a study that may have been run in part; with `probe`, seconds are measured on this machine."""
    records = read_only(folder) if folder.exists() else {}
    agenda = Agenda(study, records, lambda key: True)
    known = agenda.known()
    students = [spec for spec in known if spec.phase == "search"]
    possible = [] if agenda.search_over() else sources(study)
    needed = [source for spec in known if (source := job_of(study, spec).init) is not None]
    first = [
        spec for spec in (teacher_spec(study), *{s.key: s for s in [*possible, *needed]}.values()) if spec is not None
    ]
    to_search = agenda.rounds * len(agenda.streams) - len(agenda.own_search())
    counts = {
        "teacher": sum(spec.phase == "teacher" and spec.key not in records for spec in first),
        "source": sum(spec.phase == "source" and spec.key not in records for spec in first),
        "search": to_search,
        "final": agenda.left() - to_search,
    }
    trainings = [
        spec for spec in [*first, *students, *(s for s in known if s.phase == "final")] if spec.key not in records
    ]
    workers = (
        1 if study.resources.executor == "local" else workers_for(study.resources, cores(), torch.cuda.device_count())
    )
    return Plan(study.study, counts, trainings, measured(study, counts) if probe else None, workers)


def sources(study: Study) -> list[TrialSpec]:
    """The trainings on the source task, one for each student that a transfer-learning method may start from."""
    if not any(methods.get(method).starts_from == "source" for method in study.methods):
        return []
    models = [cell.config(dict(zip(cell.space, sizes, strict=True))) for cell in study.cells() for sizes in grid(cell)]
    return [spec for model in models if (spec := source_spec(study, model)) is not None]


def grid(cell: Cell) -> Iterator[tuple[Any, ...]]:
    """Every combination of the searched sizes."""
    return itertools.product(*(choice.values for choice in cell.space.values()))


def measured(study: Study, counts: dict[str, int]) -> dict[str, float]:
    """Seconds by stage on one worker, from a few steps of the teacher, of the source task, and of each method's default
    at the smallest and the largest student. Evaluation, start-up and latency measurements are not in it."""
    with tempfile.TemporaryDirectory() as folder:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shop = Workshop(Store(Path(folder)), device, use_cache=False)  # the teacher of the probe is not trained
        teacher, on_source = teacher_spec(study), sources(study)[:1]
        seconds = {"teacher": probe_s(Job(teacher), shop) if teacher is not None and counts["teacher"] else 0.0}
        seconds["source"] = sum(probe_s(Job(spec), shop) for spec in on_source) * counts["source"]
        defaults = [
            search_spec(study, stream, 0, {**study.defaults(stream.method, stream.cell), **sizes})
            for stream in streams(study)
            if stream.repeat == 0
            for sizes in extremes(stream)
        ]
        mean = sum(probe_s(job_of(study, spec), shop) for spec in defaults) / len(defaults)
    return {**seconds, "search": mean * counts["search"], "final": mean * counts["final"]}


def extremes(stream: Stream) -> list[dict[str, Any]]:
    """The first and the last value of all searched student sizes, under the names of the search space."""
    sizes = {f"student.{name}": choice.values for name, choice in stream.cell.space.items()}
    ends = (0, -1) if sizes else (0,)
    return [{name: values[end] for name, values in sizes.items()} for end in ends]


def probe_s(job: Job, shop: Workshop) -> float:
    """Seconds that the job's training would take, from the median of a few steps of an untrained copy."""
    for spec in (job.teacher, job.init):
        if spec is not None and not shop.store.weights_path(spec.key).exists():
            checkpoint.save(shop.store.weights_path(spec.key), shop.network(spec).state_dict(), {})
    recipe = Recipe.from_json(job.spec.train)
    training = training_of(job, shop, recipe, resolve_precision(recipe.precision, shop.device))
    views = training.task.train
    generator = torch.Generator().manual_seed(0)
    size = min(recipe.batch_size, len(views))
    walls = []
    training.train_mode()
    for _ in range(STEPS):
        index = torch.randperm(len(views), generator=generator)[:size].to(shop.device)
        began = time.perf_counter()
        training.step(index, views.draw(size, generator).to(shop.device), generator, 0.5)
        if shop.device.type == "cuda":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - began)
    return sorted(walls)[STEPS // 2] * len(training.batches(len(views))) * recipe.epochs
