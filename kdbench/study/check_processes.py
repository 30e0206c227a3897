"""Check what a study says of trainings over several GPUs or processes: numbers, and methods that allow it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdbench.method import methods
from kdbench.study.check_networks import Networks
from kdbench.study.explain import Finding
from kdbench.study.rows import SOURCE, TEACHER
from kdbench.study.words import got
from kdbench.study.yaml_source import Path
from kdbench.train.splitting import refusal, splits

TRIAL, OF_TEACHER, PROCESSES = "gpus_per_trial", "gpus_per_teacher", "processes_per_trial"


def check_processes(raw: dict[str, Any], known: Networks) -> Iterator[Finding]:
    """All that is wrong in these three fields of `resources`, and the methods that they do not fit."""
    section = raw.get("resources")
    written = section if isinstance(section, dict) else {}
    found = {name: written.get(name) for name in (TRIAL, OF_TEACHER, PROCESSES)}
    resources: dict[str, float] = {name: value for name, value in found.items() if _is_number(value)}  # type: ignore[misc]
    problems = list(_numbers(written, resources))
    yield from problems
    if problems:
        return
    several = [name for name in (TRIAL, PROCESSES) if resources.get(name, 1) > 1]
    asked = {"trial": several[0] if several else None}
    asked["teacher"] = OF_TEACHER if resources.get(OF_TEACHER, 0) > 1 else asked["trial"]
    if resources.get(OF_TEACHER) == 1 and asked["trial"] == TRIAL:
        asked["teacher"] = None
    for path, names, kind in _trainings(raw, known):
        field = asked[kind]
        refused = [name for name in names if not splits(methods.get(name))]
        if field is not None and refused:
            why = refusal(refused, f"Set resources.{field}: 1")
            yield Finding(path, f"got resources.{field}: {resources[field]}, but {why}", "key")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(written: dict[str, Any], resources: dict[str, float]) -> Iterator[Finding]:
    trial, teacher, processes = (resources.get(name) for name in (TRIAL, OF_TEACHER, PROCESSES))
    if trial is not None and trial > 1 and trial != int(trial):
        what = f"got {got(trial)}. Allowed: auto, a share of a GPU up to 1, or a whole number of GPUs."
        yield Finding(("resources", TRIAL), what)
    if processes is not None and processes > 1:
        cores = written.get("cpus_per_trial", 1)
        if trial is not None and trial > 0:
            what = f"no effect with gpus_per_trial: {trial:g}, which has a process for each whole GPU. Remove it."
            yield Finding(("resources", PROCESSES), what)
        elif _is_number(cores) and processes > cores:
            what = f"got {got(processes)}. Allowed: up to the {cores} of cpus_per_trial, a core for each. Raise that."
            yield Finding(("resources", PROCESSES), what)
    elsewhere = written.get("ray_address") not in (None, "local") and written.get("executor") != "local"
    if elsewhere and teacher is not None and teacher > max(1, trial or 1):
        what = (
            f"got {got(teacher)}. Allowed on a cluster: up to gpus_per_trial, which is what Ray reserves. "
            "Raise that, or train the teacher before, on a machine that the study has to itself."
        )
        yield Finding(("resources", OF_TEACHER), what)


def _trainings(raw: dict[str, Any], known: Networks) -> Iterator[tuple[Path, list[str], str]]:
    """Path, methods and kind (`trial` or `teacher`) of all that is trained."""
    section = raw.get("methods")
    for label, row in (section if isinstance(section, dict) else {}).items():
        written = row if isinstance(row, dict) else {}
        combined = written.get("combine")
        names = [*combined] if isinstance(combined, (list, dict)) else [written.get("method") or label]
        yield ("methods", label), _registered(names), "trial"
    for name in known:
        if name == TEACHER and known.pairs:
            continue
        own = known[name]
        small = name == SOURCE or own.get("data") is not None or known.has_students_size(name)
        trained = [] if {"checkpoint", "ensemble"} & set(own) else [own.get("method", "scratch")]
        yield known.path(name), _registered(trained), "trial" if small else "teacher"


def _registered(names: list[Any]) -> list[str]:
    return [name for name in names if isinstance(name, str) and name in methods]
