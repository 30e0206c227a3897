"""From a study to the trainings that it asks for, as pure functions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdbench import data
from kdbench.combine import deployed
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


class Trials:
    """The trials of one search: specs from values, and values from specs.

    Values are all that the search searches, by name: `temperature`, `student.depth`, `shared.lr`. What the trials of a
    search have in common is worked out once, so that thousands of them are cheap.
    """

    def __init__(self, study: Study, stream: Stream) -> None:
        row = study.methods[stream.row]
        self.study, self.stream = study, stream
        self.pair = pair_label(study, stream.cell)
        self.space = study.space(stream.row, stream.cell)
        self.defaults = study.defaults(stream.row, stream.cell)
        self._row = row
        self._fixed = study.fixed(stream.row)
        self._declared = rows.declared(row, stream.row)
        self._needs = rows.networks_of(row, stream.row)
        self._data = study.data.config()
        self._train = train_config(study.train, stream.cell.train)
        self._seed = seed_for(study.search.seed, "search", stream.repeat)
        self._networks: dict[str, tuple[str | None, ...]] = {}  # keys of those that it needs, by model

    def spec(self, trial: int, values: Mapping[str, Any]) -> TrialSpec:
        """The spec of a trial."""
        label = self.stream.row
        parts: dict[str, dict[str, Any]] = {"student": {}, "shared": {}}
        hyper = dict(self._fixed)
        for name, value in values.items():
            section, _, setting = name.partition(".")
            if section in parts:
                parts[section][setting] = value
            else:
                hyper[name] = value
        model = self.stream.cell.config(parts["student"])
        method = rows.method_config(self._row, label, hyper)
        teacher, init = self._networks_of(model)
        slot = {"pair": self.pair, "repeat": self.stream.repeat, "trial": trial}
        return TrialSpec(
            phase="search", data=self._data, model=model, method=method, train={**self._train, **parts["shared"]},
            seed=self._seed, teacher=teacher, init=init,
            slot=slot if label == method["name"] else {**slot, "row": label},
        )  # fmt: skip

    def values(self, spec: TrialSpec) -> dict[str, Any]:
        """Inverse of `spec`: the values of all that is searched, None where the spec has none."""
        sizes, hyper = self.stream.cell.sizes_in(spec.model), spec.hyper
        values = {}
        for name in self.space:
            if name.startswith("student."):
                values[name] = sizes[name.removeprefix("student.")]
            elif name.startswith("shared."):
                values[name] = spec.train.get(name.removeprefix("shared."))
            else:
                declared = self._declared[name]
                values[name] = hyper.get(name, declared.default if declared.added else None)
        return values

    def asks_for(self, spec: TrialSpec) -> bool:
        """Whether a spec is what comes of its own values in its place, within the ranges or not."""
        values = self.values(spec)
        return None not in values.values() and self.spec(int(spec.slot["trial"]), values) == spec

    def _networks_of(self, model: Mapping[str, Any]) -> tuple[str | None, ...]:
        """Keys of the networks that a student of that model learns from and starts from."""
        name = str(model)
        if name not in self._networks:
            made = (needed and network(self.study, needed, model, self.stream.cell) for needed in self._needs)
            self._networks[name] = tuple(spec.key if spec else None for spec in made)
        return self._networks[name]


def final_spec(study: Study, chosen: TrialSpec, number: int) -> TrialSpec:
    """The retraining of a chosen search trial of the study on fresh seed `number`."""
    slot = {"pair": chosen.slot["pair"], "final": number, "chosen": chosen.key}
    return replace(
        chosen,
        phase="final",
        seed=seed_for(study.search.seed, "final", number),
        slot={**slot, "row": chosen.slot["row"]} if "row" in chosen.slot else slot,
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
