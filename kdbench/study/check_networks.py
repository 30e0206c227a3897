"""Check the networks of a study: how each comes about, and that they fit what they learn from and start from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.errors import DataError, did_you_mean, listed
from kdbench.fields import fields_of
from kdbench.method import methods
from kdbench.models import models
from kdbench.study import schemes
from kdbench.study.check_fields import check_model, check_value
from kdbench.study.checkpoints import checkpoint_file, checkpoint_problem
from kdbench.study.explain import Finding
from kdbench.study.network_sections import STUDENT, Teacher
from kdbench.study.rows import SOURCE, TEACHER, starts_elsewhere
from kdbench.study.sections import Train
from kdbench.study.words import allowed, got
from kdbench.study.yaml_source import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
OWN_SECTION = {
    TEACHER: "the teacher has a section of its own, 'teacher:'",
    SOURCE: "the source task has a section of its own, 'source:'",
    STUDENT: "'student' stands for the student of a row",
}
TRAINED = ("method", "settings", "teacher", "start", "stop_epoch", "seed", *Train.model_fields)


def students(raw: dict[str, Any]) -> list[tuple[Path, Any]]:
    """The sections of students as written, with their paths: `student`, or that of each pair."""
    if (pairs := raw.get("pairs")) is None:
        return [((STUDENT,), raw.get(STUDENT))]
    written = enumerate(pairs) if isinstance(pairs, list) else ()
    return [(("pairs", i, STUDENT), pair.get(STUDENT)) for i, pair in written if isinstance(pair, dict)]


class Networks(Mapping[str, dict[str, Any]]):
    """The networks of a study as written, by name, with what can be wrong in naming one of them.

    In a study of several pairs `teacher` stands for the teachers of all of them.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        section = raw.get("networks")
        self.written = {name: raw[name] for name in (TEACHER, SOURCE) if raw.get(name) is not None}
        self.written |= section if isinstance(section, dict) else {}
        pairs = raw.get("pairs")
        self.pairs = [pair for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else []
        if pairs is not None:  # like an ensemble, in that it needs all of these
            named = [pair.get(TEACHER) for pair in self.pairs]
            self.written[TEACHER] = {"ensemble": [n for n in named if isinstance(n, str) and n not in OWN_SECTION]}

    def __getitem__(self, name: str) -> dict[str, Any]:
        found = self.written[name]
        return found if isinstance(found, dict) else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.written)

    def __len__(self) -> int:
        return len(self.written)

    def path(self, name: str) -> Path:
        """Where a network is written."""
        return (name,) if name in OWN_SECTION else ("networks", name)

    def pair_trainings(self) -> list[tuple[Path, dict[str, Any]]]:
        """The settings of training that pairs have of their own, with their paths."""
        written = self.raw.get("pairs")
        found = enumerate(written) if isinstance(written, list) else ()
        sections = [(("pairs", i, "train"), pair.get("train")) for i, pair in found if isinstance(pair, dict)]
        return [(path, section) for path, section in sections if isinstance(section, dict)]

    def has_students_size(self, name: str, seen: tuple[str, ...] = ()) -> bool:
        """Whether a network is another one for each size of the student, itself or by what it is made from."""
        if name not in self or name in seen:
            return False
        own = name == SOURCE or self[name].get("model") == STUDENT
        return own or any(self.has_students_size(needed, (*seen, name)) for needed in _named(self[name]))

    def known(self, path: Path, name: Any) -> Iterator[Finding]:
        """Whether there is a network of that name."""
        if isinstance(name, str) and name not in self:
            what = f"unknown network '{name}'.{did_you_mean(name, self)} Known: {listed(self)}."
            yield Finding(path, what)

    def teacher(self, path: Path, name: Any, data: Any = None) -> Iterator[Finding]:
        """Whether a network can be learnt from on the data of that section (the study's by default)."""
        yield from self.known(path, name)
        own, wanted = self.classes(name), n_classes(data or self.raw.get("data"))
        if own is not None and wanted is not None and own != wanted:
            what = f"'{name}' tells {own} classes apart, the data here have {wanted}. Name a network of the same data."
            yield Finding(path, what)

    def classes(self, name: Any) -> int | None:
        """How many classes a network knows; None where that cannot be said."""
        if not isinstance(name, str) or name not in self or self[name].get("ensemble") is not None:
            return None
        return n_classes(self[name].get("data") or self.raw.get("data"))

    def start_of_student(self, path: Path, name: Any) -> Iterator[Finding]:
        """Whether a student can start from a network: one of its own size."""
        if not self.pairs:
            yield from self._start(path, name, "the student", self.raw.get(STUDENT), student=True)
        for pair in self.pairs:  # the first that does not fit is told
            own = pair.get(TEACHER) if name == TEACHER else name
            found = list(self._start(path, own, "the student", pair.get(STUDENT), student=True))
            if found:
                yield found[0]
                return

    def start_of(self, path: Path, name: Any, own: str) -> Iterator[Finding]:
        """Whether a network can start from another one."""
        section = self[own]
        yield from self._start(path, name, f"'{own}'", section, student=section.get("model") == STUDENT)

    def _start(self, path: Path, name: Any, who: str, section: Any, *, student: bool) -> Iterator[Finding]:
        yield from self.known(path, name)
        if not isinstance(name, str) or name not in self or not isinstance(section, dict):
            return
        other = self[name]
        if other.get("ensemble") is not None or other.get("normalise") is not None:
            kind = "an ensemble" if other.get("ensemble") is not None else "wrapped in a normalisation of its own"
            yield Finding(path, f"'{name}' is {kind}, which {who} cannot start from. Name a single plain network.")
        elif (name == SOURCE or other.get("model") == STUDENT) and student:
            return
        elif name == SOURCE or other.get("model") == STUDENT:
            yield Finding(
                path, f"'{name}' has the size of the student, {who} a size of its own. Name one of that size."
            )
        elif sizes(section) is None or sizes(section) != sizes(other):
            what = f"'{name}' has another size than {who}. Name a network of the same model and sizes"
            yield Finding(path, f"{what}{', such as one with model: student' if student else ''}.")


def sizes(section: Mapping[str, Any]) -> dict[str, Any] | None:
    """Family and sizes as written, with defaults; None where they are not single values of a known family."""
    family = section.get("model")
    if not isinstance(family, str) or family not in models:
        return None
    out: dict[str, Any] = {"model": family}
    for name, info in fields_of(models.get(family)).items():
        value = section.get(name, info.default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, (list, dict)) or value is None:
            return None
        out[name] = value
    return out


def n_classes(section: Any) -> int | None:
    """Number of classes of a data section; None where it is malformed, which is reported elsewhere."""
    from kdbench import data

    if not isinstance(section, dict) or data.problems(section):
        return None
    try:
        config, info = data.resolve(section)
    except DataError:
        return None
    return config.n_classes(info)


def check_networks(raw: dict[str, Any], known: Networks) -> Iterator[Finding]:
    """All that is wrong in the sections `teacher` and `networks`, but for their data and training."""
    section = raw.get("networks")
    if isinstance(raw.get(TEACHER), dict):
        yield from _network((TEACHER,), TEACHER, raw[TEACHER], known)
    for name, written in (section if isinstance(section, dict) else {}).items():
        path = ("networks", name)
        if name in OWN_SECTION:
            yield Finding(path, f"{OWN_SECTION[name]}. Give this network another name.", "key")
        elif not NAME.fullmatch(name):
            what = f"got {got(name)}. Allowed as a name: up to 60 letters, digits, '-', '_' and '.'."
            yield Finding(path, what, "key")
        if isinstance(written, dict):
            yield from _network(path, name, written, known)
    yield from _circles(known)


def _network(path: Path, name: str, section: dict[str, Any], known: Networks) -> Iterator[Finding]:
    if section.get("ensemble") is not None and name != TEACHER:
        yield from _ensemble(path, section, known)
        return
    if "average" in section and name != TEACHER:
        yield Finding((*path, "average"), "no effect without 'ensemble'. Remove it.", "key")
    if section.get("model") == STUDENT and name != TEACHER:
        yield from _of_student(path, section)
    else:
        if section.get("model") is None and name != TEACHER:
            yield Finding(path, "got no model. Allowed: model: with a family or student, or ensemble: [...].", "key")
        yield from check_model(path, section, Teacher)
    if section.get("checkpoint") is not None:
        yield from _checkpoint(path, section)
        return
    for field in ("sha256", "normalise"):
        if section.get(field) is not None:
            yield Finding((*path, field), "no effect without 'checkpoint'. Remove it.", "key")
    yield from _method(path, name, section, known)


def _ensemble(path: Path, section: dict[str, Any], known: Networks) -> Iterator[Finding]:
    for field in section:
        if field not in ("ensemble", "average"):
            yield Finding(
                (*path, field), "no effect beside 'ensemble', whose networks are made elsewhere. Remove it.", "key"
            )
    members = section["ensemble"] if isinstance(section["ensemble"], list) else []
    for i, member in enumerate(members):
        place = (*path, "ensemble", i)
        if isinstance(member, str) and member in members[:i]:
            yield Finding(place, f"got {got(member)} twice. Keep one of them.")
        else:
            yield from known.teacher(place, member)


def _of_student(path: Path, section: dict[str, Any]) -> Iterator[Finding]:
    for field in section:
        if field not in Teacher.model_fields and field not in ("ensemble", "average"):
            hint = did_you_mean(field, Teacher.model_fields)
            what = f"unknown field of a network of the student's size.{hint} It has no sizes of its own. Remove it."
            yield Finding((*path, field), what, "key")
    if section.get("checkpoint") is not None:
        yield Finding((*path, "model"), "got 'student'. Allowed with a checkpoint: its own model family, with sizes.")


def _checkpoint(path: Path, section: dict[str, Any]) -> Iterator[Finding]:
    for field in section:
        if field in TRAINED:
            yield Finding((*path, field), "no effect on a checkpoint, which is not trained here. Remove it.", "key")
    written, normalise = section["checkpoint"], section.get("normalise")
    if isinstance(written, str) and (problem := checkpoint_problem(written, section.get("sha256"))):
        field = "sha256" if checkpoint_file(written) is not None else "checkpoint"
        yield Finding((*path, field), problem)
    lists = [normalise.get(field) for field in ("mean", "std")] if isinstance(normalise, dict) else []
    counts = [len(item) for item in lists if isinstance(item, list)]
    if len(counts) == 2 and counts[0] != counts[1]:
        what = f"got {counts[0]} means and {counts[1]} deviations. Allowed: one each for every channel."
        yield Finding((*path, "normalise"), what)


def _method(path: Path, name: str, section: dict[str, Any], known: Networks) -> Iterator[Finding]:
    method = section.get("method", "scratch")
    if not isinstance(method, str):
        return
    if method not in methods:
        yield Finding((*path, "method"), schemes.unknown(method))
        return
    kind = methods.get(method)
    yield from _settings(path, method, section.get("settings"))
    teacher, start = section.get("teacher"), section.get("start")
    if "teacher" not in kind.frozen:
        if teacher is not None:
            yield Finding((*path, "teacher"), f"no effect: '{method}' has no teacher. Remove it.", "key")
    elif teacher is not None:
        yield from known.teacher((*path, "teacher"), teacher, section.get("data"))
    elif TEACHER not in known or name == TEACHER:
        yield Finding(path, f"'{method}' needs a teacher. Add 'teacher:' with the name of another network.", "key")
    if start is not None:
        yield from known.start_of((*path, "start"), start, name)
    elif starts_elsewhere(kind) and (SOURCE not in known or section.get("model") != STUDENT):
        yield Finding(path, f"'{method}' starts from another network. Add 'start:' with its name.", "key")


def _settings(path: Path, method: str, settings: Any) -> Iterator[Finding]:
    declared = fields_of(methods.get(method))
    for field, value in (settings if isinstance(settings, dict) else {}).items():
        place = (*path, "settings", field)
        if field not in declared:
            hint = did_you_mean(field, declared)
            yield Finding(place, f"unknown field of '{method}'.{hint} Fields: {listed(declared)}.", "key")
        else:
            several = " (one value: a network is not searched)" if isinstance(value, (list, dict)) else ""
            yield from check_value(place, declared[field], value, allowed(declared[field]) + several)


def _circles(known: Networks) -> Iterator[Finding]:
    """Networks that need each other: reported once for each circle, at its first network in the file."""
    seen: set[str] = set()
    for name in known:
        trail: list[str] = []
        circle = _circle(name, known, trail, set())
        if circle and not seen & set(circle):
            seen |= set(circle)
            what = f"these networks need each other: {' -> '.join([*circle, circle[0]])}. Break the circle."
            yield Finding(known.path(circle[0]), what, "key")


def _circle(name: str, known: Networks, trail: list[str], done: set[str]) -> list[str]:
    if name in trail:
        return trail[trail.index(name) :]
    if name not in known or name in done:
        return []
    trail.append(name)
    for needed in _named(known[name]):
        if circle := _circle(needed, known, trail, done):
            return circle
    trail.pop()
    done.add(name)
    return []


def _named(section: dict[str, Any]) -> list[str]:
    """Names that a network writes, and the teacher where its method takes one that is not written."""
    members = section.get("ensemble")
    found = [*(members if isinstance(members, list) else []), section.get("teacher"), section.get("start")]
    method = section.get("method")
    if section.get("teacher") is None and isinstance(method, str) and method in methods:
        found += [TEACHER] if "teacher" in methods.get(method).frozen else []
    return [name for name in found if isinstance(name, str)]
