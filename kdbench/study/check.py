"""Check what the shape of a study file cannot say: names in the registries, and sections that must fit each other.

Every check reads the plain values and passes over what is malformed, so that all mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from kdbench.errors import DataError, did_you_mean, listed
from kdbench.fields import fields_of
from kdbench.method import methods
from kdbench.record import METRICS
from kdbench.study.check_fields import check_model, check_setting
from kdbench.study.explain import Finding
from kdbench.study.sections import Data, Section, Train
from kdbench.study.space import SHARED
from kdbench.study.words import got

# Measured by every search trial of every method, on the validation split or on the model alone. Latency is measured
# with the machine to itself, and agreement needs a teacher.
OBJECTIVES = (
    "val_top1_pct", "val_top5_pct", "val_nll", "val_macro_precision_pct", "val_macro_recall_pct", "val_ece_pct",
    "params", "size_bytes", "flops",
)  # fmt: skip


def check(raw: dict[str, Any]) -> list[Finding]:
    """All that is wrong in a study beyond its shape."""
    return [
        *check_model("teacher", raw.get("teacher")),
        *check_model("student", raw.get("student")),
        *_check_methods(raw),
        *_check_data(raw),
        *_check_training(raw),
        *_check_search(raw),
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


def _check_methods(raw: dict[str, Any]) -> Iterator[Finding]:
    for name, settings in _mapping(raw, "methods").items():
        if name not in methods:
            yield Finding(("methods", name), methods.unknown(name), "key")
            continue
        kind = methods.get(name)
        if "teacher" in kind.frozen and raw.get("teacher") is None:
            what = f"'{name}' needs a teacher. Add 'teacher:' with its model, or remove the method."
            yield Finding(("methods", name), what, "key")
        if kind.starts_from == "source" and raw.get("source") is None:
            what = f"'{name}' starts from a source task. Add 'source:' with its data, or remove the method."
            yield Finding(("methods", name), what, "key")
        declared = fields_of(kind)
        for field, value in (settings if isinstance(settings, dict) else {}).items():
            if field in declared:
                yield from check_setting(("methods", name, field), declared[field], value)
            else:
                hint = did_you_mean(field, declared)
                what = f"unknown field of '{name}'.{hint} Fields: {listed(declared)}."
                yield Finding(("methods", name, field), what, "key")


def _check_data(raw: dict[str, Any]) -> Iterator[Finding]:
    from kdbench import data

    channels = {}
    for path in (("data",), ("source", "data")):
        section = _valid(Data, _mapping(_mapping(raw, "source") if len(path) > 1 else raw, "data"))
        if "name" not in section:
            continue
        found = data.problems(section)
        for field, text in found:
            yield Finding((*path, field), text if field == "name" else f"got {text}")
        try:
            info = data.describe(section["name"])
        except DataError:
            continue  # reported above
        channels[path] = (info.name, info.image_shape[0])
        train, validation = section.get("train"), section.get("validation")
        if not found and not info.n_validation and (train or 0) + (validation or 0) > info.n_train:
            what = f"{train} images and {validation} for validation are more than the {info.n_train} of '{info.name}'"
            yield Finding((*path, "train"), f"{what}. Lower one of them.")
    if len(channels) == 2 and len({count for _, count in channels.values()}) == 2:
        (target, wanted), (source, count) = channels.values()
        what = f"images of '{source}' have {count} channels, those of '{target}' {wanted}. Choose sets that agree."
        yield Finding(("source", "data", "name"), what)


def _check_training(raw: dict[str, Any]) -> Iterator[Finding]:
    shared = _valid(Train, _mapping(raw, "train"))
    own = dict(_training_problems(shared))
    yield from (Finding(("train", field), text) for field, text in own.items())
    for role in ("teacher", "source"):
        overrides = _valid(Train, _mapping(raw, role))
        for field, text in _training_problems({**shared, **overrides}) if overrides else ():
            if own.get(field) != text:
                path, at = ((role, field), "value") if field in overrides else ((role,), "key")
                yield Finding(path, f"{field}: {text} Set {role}.{field}." if at == "key" else text, at)


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
    for name in _mapping(_mapping(raw, "pareto"), "reference"):
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            what = f"unknown metric '{name}'.{hint} Known: {listed(METRICS)}."
            yield Finding(("pareto", "reference", name), what, "key")
    resources = _mapping(raw, "resources")
    if resources.get("executor") == "local" and resources.get("ray_address") is not None:
        yield Finding(("resources", "ray_address"), "no effect with executor: local. Remove it, or use executor: ray.")
    mlflow = _mapping(raw, "track").get("mlflow")
    if isinstance(mlflow, str) and mlflow not in ("auto", "off"):
        if mlflow.startswith("file:"):
            yield Finding(
                ("track", "mlflow"), "MLflow no longer writes to plain folders. Use sqlite:///path/to/mlflow.db."
            )
        elif "://" not in mlflow:
            what = f"got {got(mlflow)}. Allowed: auto, off, or a tracking URI such as http://host:5000."
            yield Finding(("track", "mlflow"), what + did_you_mean(mlflow, ("auto", "off")))
