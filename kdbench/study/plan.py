"""From a study to the trainings that it asks for, as pure functions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdbench import data
from kdbench.combine import deployed, kind_from
from kdbench.data.corruptions import possible
from kdbench.labels import model_label
from kdbench.record import Job, TrialSpec
from kdbench.seeds import seed_for
from kdbench.study import rows
from kdbench.study.networks import fixed_networks, model_config, network, networks
from kdbench.study.schema import Cell, Study, train_config

LATENCY = {"threads": 1}


@dataclass(frozen=True)
class Stream:
    """One search: a row of the study on one cell of the table, in one search repeat. Its trials follow each other."""

    cell: Cell
    row: str
    repeat: int

    @property
    def name(self) -> tuple[str, str, int]:
        """What tells it from the study's other searches."""
        return (self.cell.name, self.row, self.repeat)


def streams(study: Study) -> list[Stream]:
    """All searches of a study, rows in the order of the study file."""
    return [
        Stream(cell, row, repeat)
        for repeat in range(study.search.repeats)
        for cell in study.cells()
        for row in study.methods
    ]


def teacher_label(study: Study) -> str:
    """The teacher as tables name it: `resnet56`, `cnn8 x2`, or `no teacher`."""
    return "no teacher" if study.teacher is None else model_label(model_config(study.teacher))


def pair_label(study: Study, cell: Cell) -> str:
    """Teacher and student cell as tables name them. Of a study of several pairs the teacher's name, not its model, so
    that a pair is called the same whatever other pairs there are."""
    return f"{teacher_label(study)} -> {cell.label}" if cell.teacher is None else cell.name


def cell_of(study: Study, spec: TrialSpec) -> Cell | None:
    """The cell of a student; None in a study with one teacher, where networks do not depend on it."""
    cells = study.cells() if study.pairs else []
    return next((cell for cell in cells if cell.name == spec.slot["pair"]), None)


def teacher_spec(study: Study) -> TrialSpec | None:
    """The training of the teacher; None in a study of several pairs."""
    return fixed_networks(study).get(rows.TEACHER)


def search_spec(study: Study, stream: Stream, trial: int, values: Mapping[str, Any]) -> TrialSpec:
    """A search trial. `values` are the searched values by name: `temperature`, `student.depth`, `shared.lr`."""

    def under(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    hyper = {name: value for name, value in values.items() if not name.startswith(("student.", "shared."))}
    fixed = study.fixed(stream.row)
    return _student(
        study,
        stream.cell,
        stream.row,
        phase="search",
        model=stream.cell.config(under("student.")),
        method=rows.method_config(study.methods[stream.row], stream.row, {**fixed, **hyper}),
        train=train_config(study.train, {**stream.cell.train, **under("shared.")}),
        seed=seed_for(study.search.seed, "search", stream.repeat),
        slot={"pair": pair_label(study, stream.cell), "repeat": stream.repeat, "trial": trial},
    )


def values_of(study: Study, stream: Stream, spec: TrialSpec) -> dict[str, Any]:
    """Inverse of `search_spec`: the values of all that the stream searches, None where the spec has none."""
    declared = rows.declared(study.methods[stream.row], stream.row)
    sizes = stream.cell.sizes_in(spec.model)
    values = {}
    for name in study.space(stream.row, stream.cell):
        if name.startswith("student."):
            values[name] = sizes[name.removeprefix("student.")]
        elif name.startswith("shared."):
            values[name] = spec.train.get(name.removeprefix("shared."))
        else:
            values[name] = spec.hyper.get(name, declared[name].default if declared[name].added else None)
    return values


def final_spec(study: Study, chosen: TrialSpec, number: int) -> TrialSpec:
    """The retraining of a chosen search trial on fresh seed `number`."""
    return _student(
        study,
        cell_of(study, chosen),
        chosen.row,
        phase="final",
        model=chosen.model,
        method=chosen.method,
        train=chosen.train,
        seed=seed_for(study.search.seed, "final", number),
        slot={"pair": chosen.slot["pair"], "final": number, "chosen": chosen.key},
    )


def evaluation_settings(study: Study) -> dict[str, Any] | None:
    """What is measured of every retrained student beside accuracy, as plain values; None where nothing is."""
    section = study.evaluation
    if section is None or not (section.agreement or section.corruptions):
        return None
    if (asked := section.corruptions) is None:
        return {"agreement": True}
    channels = data.describe(study.data.config()).image_shape[0]
    names = list(possible(channels) if asked.names == "all" else asked.names)
    corruptions = {"names": names, "severities": list(asked.severities), "images": asked.images}
    return {"agreement": section.agreement, "corruptions": corruptions}


def evaluation_spec(study: Study, final: TrialSpec, settings: Mapping[str, Any]) -> TrialSpec:
    """The further measurements of a retrained student. settings: those of `evaluation_settings`."""
    adapted = deployed(final) != dict(final.model)  # then it takes the method's own networks to build the student
    rebuilt = [key for key in (final.teacher, final.init) if key is not None] if adapted else []
    slot = {"pair": final.slot["pair"], "final": final.slot["final"], "of": final.key}
    return TrialSpec(
        phase="evaluation",
        data=final.data,
        model=final.model,
        method=final.method,
        train=settings,
        seed=final.seed,
        teacher=network(study, rows.TEACHER, final.model, cell_of(study, final)).key if settings["agreement"] else None,
        init=final.key,
        slot={**slot, "row": final.slot["row"]} if "row" in final.slot else slot,
        members=tuple(rebuilt),
    )


def latency_spec(study: Study, spec: TrialSpec) -> TrialSpec:
    """The measurement of the latency of what a training deploys: its model, or what its method makes of that."""
    plain = TrialSpec(
        phase="latency", data=study.data.config(), model=spec.model, method={"name": "scratch"}, train=LATENCY, seed=0
    )
    if deployed(spec) == deployed(plain):
        return plain
    pair = {name: spec.slot[name] for name in ("pair",) if name in spec.slot}
    return replace(plain, method=spec.method, teacher=spec.teacher, init=spec.init, slot=pair)


def _student(
    study: Study, cell: Cell | None, row: str, *, model: Mapping[str, Any], method: Mapping[str, Any],
    slot: Mapping[str, Any], **rest: Any,
) -> TrialSpec:  # fmt: skip
    section = study.methods[row]
    learns, starts = rows.needed_names(kind_from(method), section.teacher, section.start)
    return TrialSpec(
        data=study.data.config(),
        model=model,
        method=method,
        teacher=None if learns is None else network(study, learns, model, cell).key,
        init=None if starts is None else network(study, starts, model, cell).key,
        slot=slot if row == method["name"] else {**slot, "row": row},
        **rest,
    )


def job_of(study: Study, spec: TrialSpec) -> Job:
    """The spec of a student with the specs of the networks that it learns from and starts from."""
    known = networks(study, spec.model, cell_of(study, spec))
    return job_with(spec, {found.key: found for found in known.values()})


def job_with(spec: TrialSpec, by_key: Mapping[str, TrialSpec]) -> Job:
    """A spec with the specs that it names, which `by_key` has."""
    return Job(
        spec,
        teacher=by_key[spec.teacher] if spec.teacher is not None else None,
        init=by_key[spec.init] if spec.init is not None else None,
        members=tuple(by_key[member] for member in spec.members),
    )
