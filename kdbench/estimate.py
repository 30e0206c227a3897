"""What a study would run, and about how long that takes, from a few measured steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdbench import data
from kdbench.labels import seconds_label
from kdbench.record import Job, TrialSpec, canonical_json
from kdbench.search.agenda import Agenda
from kdbench.search.capacity import cores, workers_for
from kdbench.session import read_only
from kdbench.store import Store
from kdbench.study import space
from kdbench.study.networks import fixed_networks, network, networks, student_networks
from kdbench.study.plan import Stream, Trials, cell_of, evaluation_settings, job_of, job_with, streams
from kdbench.study.schema import Study
from kdbench.terminal import describe
from kdbench.train import checkpoint
from kdbench.train.recipe import Recipe, resolve_precision
from kdbench.train.run import UNTRAINED
from kdbench.train.student import training_of
from kdbench.train.workshop import Workshop

STEPS, LONG_S = 5, 4.0  # steps that are measured of a training, but no further one after so many seconds
SAMPLE = 60  # of a study with more searches in a repeat, only some are measured


@dataclass(frozen=True)
class Plan:
    """What is left to run. `trainings` lists those whose values are known by now; later ones depend on results.

    counts: trainings that are left, by stage. seconds: about how long they take on one worker by stage, or None.
    networks: names of the networks that rows learn from or start from, by key. warnings: what a person should know.
    """

    study: str
    counts: dict[str, int]
    trainings: list[TrialSpec]
    seconds: dict[str, float] | None
    workers: int
    networks: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        known = [{"key": spec.key, **spec.to_json()} for spec in self.trainings]
        return {
            "study": self.study,
            "counts": self.counts,
            "seconds_on_one_worker": self.seconds,
            "workers": self.workers,
            "networks": self.networks,
            "warnings": list(self.warnings),
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
        lines += [f"Warning: {warning}" for warning in self.warnings]
        lines += ["Known by now (later trials follow from the results of these):"]
        lines += [
            f"  {spec.key} {describe(spec, self.networks.get(spec.key))} {settings(spec)}" for spec in self.trainings
        ]
        return "\n".join(lines)


def settings(spec: TrialSpec) -> str:
    """Hyper-parameters and model of a training, `name=value`."""
    model = spec.model.get("model", spec.model)  # with a normalisation of its own: the network inside
    sizes = {name: value for name, value in model.items() if name not in ("name", "members")}
    pairs = {**spec.hyper, **sizes, **({"lr": spec.train["lr"]} if "lr" in spec.train else {})}
    if "sha256" in pairs:
        pairs["sha256"] = str(pairs["sha256"])[:12]
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs.items()
    )


def describe_plan(study: Study, folder: Path, *, probe: bool) -> Plan:
    """The plan of a study that may have been run in part; with `probe`, seconds are measured on this machine."""
    records = read_only(folder) if folder.exists() else {}
    agenda = Agenda(study, records, lambda key: True)
    known = agenda.known()
    named = {spec.key: name for name, spec in agenda.fixed.items()}
    first = {spec.key: spec for spec in agenda.fixed.values()}
    for name, spec in possible_networks(study, known, searching=not agenda.search_over()):
        named[spec.key], first[spec.key] = name, spec
    left = [spec for spec in first.values() if spec.key not in records]
    to_search = agenda.rounds * len(agenda.streams) - len(agenda.own_search())
    finals = agenda.finals() if agenda.search_over() else None
    counts = {
        "teacher": sum(spec.phase == "teacher" for spec in left),
        "source": sum(spec.phase == "source" for spec in left),
        "search": to_search,
        "final": agenda.finals_expected() if finals is None else sum(spec.key not in records for spec in finals),
    }
    if study.evaluation is not None:
        counts["evaluation"] = agenda.evaluations_left()
    trainings = [spec for spec in [*left, *known] if spec.key not in records]
    workers = (
        1 if study.resources.executor == "local" else workers_for(study.resources, cores(), torch.cuda.device_count())
    )
    seconds = measured(study, left, counts) if probe else None
    return Plan(study.study, counts, trainings, seconds, workers, named, tuple(warnings(study)))


def warnings(study: Study) -> list[str]:
    """What the study leaves out."""
    students = [("", study.student)] if study.student is not None else []
    students += [(f"of pairs[{i}] ", pair.student) for i, pair in enumerate(study.pairs or ())]
    return [
        f"{label} {where}is left out: it has more than {student.max_params} parameters"
        for where, student in students
        for label in space.too_large(student, study.data)
    ]


def possible_networks(study: Study, known: Iterable[TrialSpec], *, searching: bool) -> list[tuple[str, TrialSpec]]:
    """Names and specs of the networks of a student's own size that trials need: of those that are known, and while the
    search goes on, of every size that it may try."""
    names = student_networks(study)
    if not names:
        return []
    students = [(spec.model, cell_of(study, spec)) for spec in known if spec.teacher or spec.init]
    students += [(model, cell) for cell in study.cells() for model in cell.models()] if searching else []
    every = {canonical_json([dict(model), cell and cell.name]): (model, cell) for model, cell in students}
    return [(name, network(study, name, model, cell)) for model, cell in every.values() for name in names]


class ProbeWorkshop(Workshop):
    """A workshop for a few steps: teachers are not evaluated, which would take longer than all of these."""

    def teacher_logits(self, teacher: TrialSpec, spec: TrialSpec, split: str, precision: str) -> torch.Tensor:
        """Zeros in place of the teacher's logits on a split; a step does not look at them."""
        views = self.views(spec.data, split)
        return torch.zeros(len(views), self.splits(spec.data).classes, device=self.device)


def measured(study: Study, left: list[TrialSpec], counts: dict[str, int]) -> dict[str, float]:
    """Seconds by stage on one worker, from a few steps of each network that is left, of those of the students' sizes
    one by name, and of each row's default at the smallest and the largest student; in a study of many cells each row
    on some of them. Evaluation, start-up and latency measurements are not in it."""
    with tempfile.TemporaryDirectory() as folder:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shop = ProbeWorkshop(Store(Path(folder)), device, use_cache=False)  # the teacher of the probe is not trained
        by_key = {s.key: s for cell in study.cells() for s in networks(study, cell.models()[0], cell).values()}
        by_key |= {spec.key: spec for spec in fixed_networks(study).values()}
        once: dict[str, float] = {}
        seconds = {"teacher": 0.0, "source": 0.0}
        for spec in sorted(left, key=lambda spec: spec.key not in by_key):  # those that are measured come first
            alike = canonical_json([spec.phase, dict(spec.data), dict(spec.method), dict(spec.train)])
            if spec.key in by_key:
                once[alike] = probe_s(job_with(spec, by_key), shop)
            seconds[spec.phase] += once.get(alike, 0.0)
        defaults = [
            trials.spec(0, {**trials.defaults, **sizes})
            for trials in (Trials(study, stream) for stream in sample(streams(study)))
            for sizes in extremes(trials.stream)
        ]
        mean = sum(probe_s(job_of(study, spec), shop) for spec in defaults) / len(defaults)
        seconds |= {"search": mean * counts["search"], "final": mean * counts["final"]}
        if settings := evaluation_settings(study):
            once_s = sum(evaluation_s(spec, settings, shop) for spec in defaults) / len(defaults)
            seconds["evaluation"] = once_s * counts["evaluation"]
        elif "evaluation" in counts:
            seconds["evaluation"] = 0.0
    return seconds


def evaluation_s(spec: TrialSpec, settings: Mapping[str, Any], shop: Workshop) -> float:
    """Seconds that the evaluation of such a student would take, from a forward of a few images; corrupting the images,
    which is done once for all students, is not in it."""
    views, net = shop.views(spec.data, "validation"), shop.network(spec).to(shop.device).eval()
    sample = views.plain(torch.arange(min(len(views), SAMPLE), device=shop.device))
    with torch.no_grad():
        net(sample)
        began = time.perf_counter()
        net(sample)
        one_s = (time.perf_counter() - began) / len(sample)
    every = data.describe(spec.data).n_test
    if (asked := settings.get("corruptions")) is None:
        return one_s * every
    images = min(asked["images"] or every, every)
    return one_s * (every + images * (1 + len(asked["names"]) * len(asked["severities"])))


def sample(every: list[Stream]) -> list[Stream]:
    """The searches whose trainings are measured: of the first repeat, all rows, and all cells, but of many cells not
    each row on each."""
    first = [stream for stream in every if stream.repeat == 0]
    rows = list(dict.fromkeys(stream.row for stream in first))
    cells = list(dict.fromkeys(stream.cell.name for stream in first))
    if len(first) <= SAMPLE:
        return first
    wanted = {(rows[i % len(rows)], cells[i % len(cells)]) for i in range(max(len(rows), len(cells)))}
    return [stream for stream in first if (stream.row, stream.cell.name) in wanted]


def extremes(stream: Stream) -> list[dict[str, Any]]:
    """The first and the last value of all searched student sizes, under the names of the search space."""
    sizes = {f"student.{name}": choice.values for name, choice in stream.cell.space.items()}
    ends = (0, -1) if sizes else (0,)
    return [{name: values[end] for name, values in sizes.items()} for end in ends]


def probe_s(job: Job, shop: Workshop) -> float:
    """Seconds that the job's training would take, from the median of a few steps of an untrained copy."""
    if job.spec.method_name in UNTRAINED:
        return 0.0
    for spec in job.needs:
        if not shop.store.weights_path(spec.key).exists():
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
        if sum(walls) > LONG_S:
            break
    return sorted(walls)[len(walls) // 2] * len(training.batches(len(views))) * recipe.last_epoch
