"""Read a study's folder: the resolved study and every record, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench import strict_json
from kdbench.combine import deployed
from kdbench.errors import KdbenchError, RecordError
from kdbench.labels import model_label, student_labels
from kdbench.record import ProtocolError, TrialRecord, TrialSpec, canonical_json
from kdbench.record_index import RecordIndex
from kdbench.store import record_of


@dataclass(frozen=True)
class Results:
    """What a study asked and what came out, in an order that does not depend on the file system.

    study: the resolved study as plain JSON. records: sorted by key. left_out: records in the folder that do not belong
    to the study as it stands: from before it was changed, or finals of a search that has gone on since. names: of the
    networks that the study trains beside its students, by key, where it names some.
    """

    study: Mapping[str, Any]
    records: tuple[TrialRecord, ...]
    left_out: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_key(self) -> Mapping[str, TrialRecord]:
        """The records by key."""
        return {record.key: record for record in self.records}

    def phase(self, phase: str) -> list[TrialRecord]:
        """The records of one phase, in order of key."""
        return [record for record in self.records if record.spec.phase == phase]

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the study; empty where the study has none."""
        section = self.study.get(name)
        return section if isinstance(section, Mapping) else {}

    @property
    def shared(self) -> dict[str, Any]:
        """Settings of training that are searched for every method, with their space; what is null is not searched."""
        return {k: v for k, v in (self.section("search").get("shared") or {}).items() if v is not None}

    @property
    def methods(self) -> list[str]:
        """Labels of the rows in the study's order, then those that only records know."""
        asked = list(self.section("methods"))
        found = {r.spec.row for r in self.records if r.spec.phase in ("search", "final")}
        return asked + sorted(found - set(asked))

    @property
    def pairs(self) -> list[str]:
        """Names of the teacher-student pairs, sorted; one made from the study where no trial has run yet. Of a study of
        several pairs: those of the study, in its order."""
        found = {self.pair(r) for r in self.records if r.spec.phase in ("search", "final")}
        if self._students:
            asked = [pair for pair, student in self._students.items() if pair in found or not student.get("max_params")]
            return asked + sorted(found - set(asked))
        return sorted(found) or [self._pair_of_study()]

    @cached_property
    def _students(self) -> dict[str, Mapping[str, Any]]:
        """Of a study of several pairs: the section of the student by pair, in the study's order."""
        return {
            f"{pair['teacher']} -> {label}": pair["student"]
            for pair in self.study.get("pairs") or ()
            for label in student_labels(pair["student"])
        }

    @property
    def has_pairs(self) -> bool:
        """Whether the study asks the same of several pairs, each with a teacher of its own."""
        return bool(self._students)

    def student(self, pair: str) -> Mapping[str, Any]:
        """The section of a pair's student; empty where the study has none."""
        return self._students.get(pair, {}) if self._students else self.section("student")

    def role(self, key: str, pair: str) -> str:
        """What a network is in a pair, or in its table: `teacher` for the teacher, else its name in the study."""
        own = pair.rpartition(" -> ")[0] if self._students else "teacher"
        name = self.network(key)
        return "teacher" if name == own else name

    @property
    def tables(self) -> list[str]:
        """Names of the tables: the pairs, with all sizes of a student's family in one."""
        return list(dict.fromkeys(table_name(pair) for pair in self.pairs))

    def network(self, key: str) -> str:
        """What the study calls a network: `teacher` and `source` where it names none of its own."""
        record = self.by_key.get(key)
        return self.names.get(key) or ("source" if record is not None and record.spec.phase == "source" else "teacher")

    def behind(self, keys: Iterable[str | None]) -> dict[str, TrialRecord]:
        """The records of networks, and of those that these learnt from, started from or are made of, by key."""
        found: dict[str, TrialRecord] = {}
        waiting = list(keys)
        while waiting:
            record = self.by_key.get(str(waiting.pop()))
            if record is not None and record.key not in found:
                found[record.key] = record
                waiting += [record.spec.teacher, record.spec.init, *record.spec.members]
        return found

    def pair(self, record: TrialRecord) -> str:
        """The teacher-student pair that a record belongs to."""
        return str(record.spec.slot.get("pair") or self._pair_of_study())

    def _pair_of_study(self) -> str:
        teacher, student = self.section("teacher"), self.section("student")
        student_name = str(student.get("model", "student"))
        if not teacher:
            return student_name
        name = {
            "name": teacher.get("model", "teacher"),
            **{k: v for k, v in teacher.items() if k in ("depth", "width")},
        }
        return f"{model_label(name)} -> {student_name}"


def table_name(pair: str) -> str:
    """The table that a pair belongs to: `resnet56 -> resnet` for the pair `resnet56 -> resnet depth=8`.

    Sizes that a study lists with `each:` are searched one by one, but they compete in accuracy against cost.
    """
    teacher, arrow, student = pair.rpartition(" -> ")
    return teacher + arrow + student.split(" ")[0]


def deployed_key(spec: TrialSpec) -> str:
    """Text that is equal for equal deployed networks: what latencies and retrained students are joined by."""
    return canonical_json(deployed(spec))


def load(folder: Path) -> Results:
    """Read `study.json` and `records/*.json` of a study's folder; of the records, those that `current.json` names.

    Without a `current.json` (kdbench.session writes it) all records count. Raise KdbenchError where there is no study
    or no record, RecordError that names the file where one cannot be read.
    """
    study = _read_json(folder / "study.json", "There is no study here: give the folder that `kdbench run` wrote to.")
    paths = sorted((folder / "records").glob("*.json"))
    if not paths:
        raise KdbenchError(
            f"{folder / 'records'}: no records, so there is nothing to report. Run the study first: kdbench run."
        )
    if not isinstance(study, Mapping):
        raise KdbenchError(f"{folder / 'study.json'}: holds a {type(study).__name__}, not a study.")
    index = RecordIndex(folder / "records", len(paths))
    records = [_read_record(path, index) for path in paths]
    index.save()
    kept = records
    names: Any = {}
    if (folder / "current.json").exists():
        current = _read_json(folder / "current.json", "")
        names = current.pop("networks", {}) if isinstance(current, dict) else None
        if not _are_texts(names) or not all(isinstance(keys, list) and _are_texts(keys) for keys in current.values()):
            raise KdbenchError(f"{folder / 'current.json'}: not a list of keys for each phase. Run the study again.")
        belongs = {key for keys in current.values() for key in keys}
        kept = [record for record in records if record.key in belongs]
    return Results(study, tuple(sorted(kept, key=lambda record: record.key)), len(records) - len(kept), names)


def _are_texts(value: Any) -> bool:
    """Whether it is a list, or a mapping, whose values are all text."""
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list)) and all(isinstance(item, str) for item in items)


def _read_json(path: Path, hint: str) -> Any:
    try:
        return strict_json.read(path)
    except FileNotFoundError as error:
        raise KdbenchError(f"{path}: no such file. {hint}") from error
    except (OSError, ValueError) as error:
        raise KdbenchError(f"{path}: {error}") from error


def _read_record(path: Path, index: RecordIndex) -> TrialRecord:
    try:
        content = strict_json.read_bytes(path)
        if (known := index.by_content(path, content)) is not None:
            return known
        record = record_of(strict_json.loads(content))
    except ProtocolError as error:
        raise ProtocolError(
            f"{path}: {error}, and a table never mixes the two. Move the old records away, or report them with the "
            "kdbench that made them."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, RecordError) as error:
        raise RecordError(
            f"{path}: {error}. Run the study again: it sets the file aside and repeats the trial."
        ) from error
    if path.stem != record.key:
        raise RecordError(f"{path}: holds the record of {record.key}. Rename it, or move it away.")
    index.note(path, content, record)
    return record
