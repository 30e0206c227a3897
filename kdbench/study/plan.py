"""From a study to the trainings that it asks for, as pure functions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.labels import model_label
from kdbench.method import methods
from kdbench.record import Job, TrialSpec
from kdbench.seeds import seed_for
from kdbench.study.schema import Cell, Data, Study, train_config

LATENCY = {"threads": 1}


@dataclass(frozen=True)
class Stream:
    """One search: a method on one cell of the table, in one search repeat. Its trials follow each other."""

    cell: Cell
    method: str
    repeat: int

    @property
    def name(self) -> tuple[str, str, int]:
        """What tells it from the study's other searches."""
        return (self.cell.label, self.method, self.repeat)


def streams(study: Study) -> list[Stream]:
    """All searches of a study, methods in the order of the study file."""
    return [
        Stream(cell, method, repeat)
        for repeat in range(study.search.repeats)
        for cell in study.cells()
        for method in study.methods
    ]


def data_config(data: Data) -> dict[str, Any]:
    """A spec's `data`: what is left at its default is left out, so that a new option changes no old key."""
    return data.model_dump(exclude_none=True, exclude_defaults=True) | {"name": data.name}


def teacher_label(study: Study) -> str:
    """The teacher as tables name it: `resnet56`, `cnn8 x2`, or `no teacher`."""
    return "no teacher" if study.teacher is None else model_label(study.teacher.model_config_dict())


def pair_label(study: Study, cell: Cell) -> str:
    """Teacher and student cell as tables name them."""
    return f"{teacher_label(study)} -> {cell.label}"


def teacher_spec(study: Study) -> TrialSpec | None:
    """The training of the teacher."""
    if study.teacher is None:
        return None
    return TrialSpec(
        phase="teacher",
        data=data_config(study.data),
        model=study.teacher.model_config_dict(),
        method={"name": "scratch"},
        train=train_config(study.train, study.teacher.overrides()),
        seed=seed_for(study.teacher.seed, "teacher"),
    )


def source_spec(study: Study, model: Mapping[str, Any]) -> TrialSpec | None:
    """The training of a student-sized network on the source task of the transfer-learning baselines."""
    if study.source is None:
        return None
    return TrialSpec(
        phase="source",
        data=data_config(study.source.data),
        model=model,
        method={"name": "scratch"},
        train=train_config(study.train, study.source.overrides()),
        seed=seed_for(study.search.seed, "source"),
    )


def search_spec(study: Study, stream: Stream, trial: int, values: Mapping[str, Any]) -> TrialSpec:
    """A search trial. `values` are the searched values by name: `temperature`, `student.depth`, `shared.lr`."""

    def under(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    hyper = {name: value for name, value in values.items() if "." not in name}
    return _student(
        study,
        phase="search",
        model=stream.cell.config(under("student.")),
        method={"name": stream.method, **study.fixed(stream.method), **hyper},
        train=train_config(study.train, under("shared.")),
        seed=seed_for(study.search.seed, "search", stream.repeat),
        slot={"pair": pair_label(study, stream.cell), "repeat": stream.repeat, "trial": trial},
    )


def final_spec(study: Study, chosen: TrialSpec, number: int) -> TrialSpec:
    """The retraining of a chosen search trial on fresh seed `number`."""
    return _student(
        study,
        phase="final",
        model=chosen.model,
        method=chosen.method,
        train=chosen.train,
        seed=seed_for(study.search.seed, "final", number),
        slot={"pair": chosen.slot["pair"], "final": number, "chosen": chosen.key},
    )


def latency_spec(study: Study, model: Mapping[str, Any]) -> TrialSpec:
    """The measurement of a model's latency."""
    return TrialSpec(
        phase="latency", data=data_config(study.data), model=model, method={"name": "scratch"}, train=LATENCY, seed=0
    )


def _student(study: Study, *, model: Mapping[str, Any], method: Mapping[str, Any], **rest: Any) -> TrialSpec:
    kind = methods.get(method["name"])
    teacher = teacher_spec(study) if "teacher" in kind.frozen else None
    source = source_spec(study, model) if kind.starts_from == "source" else None
    return TrialSpec(
        data=data_config(study.data),
        model=model,
        method=method,
        teacher=None if teacher is None else teacher.key,
        init=None if source is None else source.key,
        **rest,
    )


def job_of(study: Study, spec: TrialSpec) -> Job:
    """The spec with the specs that it starts from."""
    return Job(
        spec,
        teacher=teacher_spec(study) if spec.teacher is not None else None,
        init=source_spec(study, spec.model) if spec.init is not None else None,
    )
