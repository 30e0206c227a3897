"""Check what the shape of a study file cannot say: names in the registries, and sections that must fit each other.

Every check reads the plain values and passes over what is malformed, so that all mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from kdbench.errors import DataError, did_you_mean, listed
from kdbench.study.check_evaluation import check_evaluation
from kdbench.study.check_fields import check_setting
from kdbench.study.check_networks import Networks, check_networks
from kdbench.study.check_pairs import check_students
from kdbench.study.check_pareto import check_pareto
from kdbench.study.check_processes import check_processes
from kdbench.study.check_resources import check_resources
from kdbench.study.check_rows import check_rows
from kdbench.study.explain import Finding
from kdbench.study.sections import Data, Section, Train
from kdbench.study.space import SHARED
from kdbench.study.words import got
from kdbench.study.yaml_source import Path, dotted

# Measured by every search trial of every method, on the validation split or on the model alone. Latency is measured
# with the machine to itself, and agreement needs a teacher.
OBJECTIVES = (
    "val_top1_pct", "val_top5_pct", "val_nll", "val_macro_precision_pct", "val_macro_recall_pct", "val_ece_pct",
    "params", "size_bytes", "flops",
)  # fmt: skip


def check(raw: dict[str, Any]) -> list[Finding]:
    """All that is wrong in a study beyond its shape."""
    known = Networks(raw)
    return [
        *check_networks(raw, known),
        *check_students(raw, known, _valid(Data, _mapping(raw, "data"))),
        *check_rows(raw, known),
        *_check_data(raw, known),
        *_check_training(raw, known),
        *_check_search(raw),
        *check_evaluation(raw, _valid(Data, _mapping(raw, "data"))),
        *check_pareto(_mapping(raw, "pareto")),
        *check_processes(raw, known),
        *_check_names(raw),
    ]


def _mapping(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _valid(model: type[Section], written: dict[str, Any]) -> dict[str, Any]:
    """The fields of a section that are right, as plain values."""
    known = {name: value for name, value in written.items() if name in model.model_fields}
    try:
        model.model_validate(known)
    except ValidationError as error:
        wrong = {item["loc"][0] for item in error.errors(include_url=False, include_context=False, include_input=False)}
        return {name: value for name, value in known.items() if name not in wrong}
    return known


def _check_data(raw: dict[str, Any], known: Networks) -> Iterator[Finding]:
    from kdbench import data

    described = {}
    sections: dict[Path, Any] = {("data",): raw.get("data")}
    sections |= {(*known.path(name), "data"): known[name].get("data") for name in known}
    for path, written in sections.items():
        if not isinstance(written, dict):
            continue
        section = _valid(Data, written)
        found = data.problems(section)
        for field, text in found:
            yield Finding((*path, field), text if field == "name" or field not in section else f"got {text}")
        try:
            info = data.describe(section)
        except DataError:
            continue  # reported above
        described[path] = (info.name, info.image_shape)
        train, validation = section.get("train"), section.get("validation")
        if not found and not info.n_validation and (train or 0) + (validation or 0) > info.n_train:
            what = f"{train} images and {validation} for validation are more than the {info.n_train} of '{info.name}'"
            yield Finding((*path, "train"), f"{what}. Lower one of them.")
    if ("data",) not in described:
        return
    target, shape = described["data",]
    for path, (name, other) in described.items():
        if other[0] != shape[0] or len(other) != len(shape):
            what = f"images of '{name}' have {other[0]} channels, those of '{target}' {shape[0]}."
            at = data.source_field(known_section(raw, path))
            yield Finding((*path, at), f"{what} Choose sets that agree.")


def known_section(raw: Any, path: Path) -> dict[str, Any]:
    """The mapping at a path of the study."""
    for part in path:
        raw = raw[part]
    return raw if isinstance(raw, dict) else {}


def _check_training(raw: dict[str, Any], known: Networks) -> Iterator[Finding]:
    shared = _valid(Train, _mapping(raw, "train"))
    own = dict(_training_problems(shared))
    yield from (Finding(("train", field), text) for field, text in own.items())
    for path, written in [*((known.path(name), known[name]) for name in known), *known.pair_trainings()]:
        overrides = _valid(Train, written)
        for field, text in _training_problems({**shared, **overrides}) if overrides else ():
            if own.get(field) != text:
                if field in overrides:
                    yield Finding((*path, field), text)
                else:
                    yield Finding(path, f"{field}: {text} Set {dotted(path)}.{field}.", "key")
        stop, epochs = written.get("stop_epoch"), {**shared, **overrides}.get("epochs")
        if type(stop) is int and type(epochs) is int and stop > epochs:
            yield Finding((*path, "stop_epoch"), f"got {stop}. Allowed: up to the {epochs} epochs of the training.")


def _training_problems(train: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of one training that do not fit each other: pairs of field and sentence."""
    epochs, schedule = train.get("epochs"), train.get("schedule", "cosine")
    milestones, warmup = train.get("milestones", []), train.get("warmup_epochs", 0)
    if milestones and schedule != "step":
        yield "milestones", f"no effect on the {schedule} schedule. Set schedule: step, or remove the milestones."
    elif schedule == "step" and not milestones:
        yield "schedule", "a step schedule needs milestones. Add milestones: [...], or use the cosine schedule."
    elif milestones and epochs is not None and _misplaced(milestones, epochs):
        yield "milestones", f"got {milestones}. Allowed: rising epochs from 1 to {epochs - 1}, before the last one."
    if epochs is not None and warmup >= epochs:
        yield "warmup_epochs", f"got {warmup}. Allowed: below the {epochs} epochs of the training."
    if train.get("nesterov") and (train.get("optimizer", "sgd") != "sgd" or train.get("momentum", 0.9) == 0):
        yield "nesterov", "got true. Allowed with optimizer: sgd and a momentum above 0."


def _misplaced(milestones: list[int], epochs: int) -> bool:
    return milestones != sorted(set(milestones)) or milestones[0] < 1 or milestones[-1] >= epochs


def _check_search(raw: dict[str, Any]) -> Iterator[Finding]:
    search = _mapping(raw, "search")
    objectives = search.get("objectives")
    if isinstance(objectives, list):
        for i, name in enumerate(objectives):
            if not isinstance(name, str):
                continue  # reported with the shape of the file
            path = ("search", "objectives", i)
            if name in objectives[:i]:
                yield Finding(path, f"got {got(name)} twice. Keep one of them.")
            elif name not in OBJECTIVES:
                what = f"got {got(name)}. Allowed: {listed(OBJECTIVES)}."
                yield Finding(path, what + did_you_mean(name, OBJECTIVES))
        if _mapping(raw, "final").get("select") == "pareto" and len(objectives) == 1:
            what = "'pareto' needs two objectives. Add one to search.objectives, or use select: best."
            yield Finding(("final", "select"), what)
    for name, value in _mapping(search, "shared").items():
        if name in SHARED and isinstance(value, (dict, list)):
            yield from check_setting(("search", "shared", name), SHARED[name], value)


def _check_names(raw: dict[str, Any]) -> Iterator[Finding]:
    yield from check_resources(_mapping(raw, "resources"))
    mlflow = _mapping(raw, "track").get("mlflow")
    if isinstance(mlflow, str) and mlflow not in ("auto", "off"):
        if mlflow.startswith("file:"):
            yield Finding(
                ("track", "mlflow"), "MLflow no longer writes to plain folders. Use sqlite:///path/to/mlflow.db."
            )
        elif "://" not in mlflow:
            what = f"got {got(mlflow)}. Allowed: auto, off, or a tracking URI such as http://host:5000."
            yield Finding(("track", "mlflow"), what + did_you_mean(mlflow, ("auto", "off")))
