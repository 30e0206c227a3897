"""`kdbench verify`: hash every file of a study again, and hold what records and tables say against each other.

It finds what was changed, lost or added since the report was written, whether by accident or by hand, and whatever does
not fit together. It cannot tell whether a training ever ran: that is what `kdbench reproduce` is for.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kdbench
from kdbench import strict_json
from kdbench.errors import KdbenchError, RecordError, listed
from kdbench.labels import plural
from kdbench.record import TrialRecord, canonical_json
from kdbench.report.load import load
from kdbench.report.manifest import NAME, Manifest, libraries, read_manifest, sha256, sources
from kdbench.store import Store

MANY = 3  # of so many files that the records do not give each has a line; more are listed in one


@dataclass
class Verification:
    """What was found in one folder. problems: one line each, the file first. checked: what was compared, in words.
    notes: what could not be compared, and why."""

    folder: Path
    problems: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def text(self) -> str:
        """What a person reads: the verdict, then a line for each problem and each note."""
        verdict = "ok" if self.sound else plural(len(self.problems), "problem")
        lines = [f"{self.folder}: {verdict}", *(f"  {problem}" for problem in self.problems)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes), f"  checked: {'; '.join(self.checked)}"])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = {"problems": self.problems, "notes": self.notes, "checked": self.checked}
        return {"folder": str(self.folder), "sound": self.sound, **facts}


def run(paths: Sequence[Path], as_json: bool) -> int:
    """Check the studies that paths name, print what is found, and return the exit status: 1 if anything is wrong."""
    done = []
    for folder in folders_of(paths):
        found = verify(folder)
        done.append(found)
        if not as_json:
            print(found.text())
    if as_json:
        print(json.dumps([found.to_json() for found in done], indent=1))
    return 0 if all(found.sound for found in done) else 1


def folders_of(paths: Iterable[Path]) -> list[Path]:
    """The study folders that paths name: each itself, or all in it. Raise KdbenchError for a path that has none."""
    found: list[Path] = []
    for path in paths:
        inside = [path] if (path / "study.json").exists() else sorted(p.parent for p in path.glob("*/study.json"))
        if not inside:
            raise KdbenchError(
                f"{path} is not the folder of a study, and holds none: there is no study.json. Give the folder that "
                "`kdbench run` wrote to, such as results/digits."
            )
        found += inside
    return list(dict.fromkeys(found))


def verify(folder: Path) -> Verification:
    """Check a study's folder; reads only."""
    done = Verification(folder)
    try:
        stored: Manifest | None = read_manifest(folder)
    except KdbenchError as error:
        stored = None
        done.problems.append(str(error))
    records = read_records(folder, done)
    if stored is not None:
        compare_sources(folder, stored, done)
    check_report(folder, stored, done)
    check_current(folder, records, done)
    done.problems += [
        *disagreements(records.values()), *test_results_of_searches(records.values()), *other_splits(folder, records)
    ]  # fmt: skip
    check_weights(folder, records, done)
    return done


def read_records(folder: Path, done: Verification) -> dict[str, TrialRecord]:
    """All records that can be read, by key; each must have the key of its spec, and be filed under it."""
    store, records = Store(folder), {}
    paths = sorted((folder / "records").glob("*.json"))
    for path in paths:
        try:
            records[path.stem] = store.read(path.stem)
        except RecordError as error:
            done.problems.append(f"records/{path.name}: {str(error).partition(': ')[2]}")
    done.checked.append(f"keys of {plural(len(paths), 'record')}")
    return records


def compare_sources(folder: Path, stored: Manifest, done: Verification) -> None:
    """Name every file that the report was made from and that is missing, changed or new."""
    done.problems += differences(stored.sources, sources(folder))
    done.checked.append(f"SHA-256 of {plural(len(stored.sources), 'source')}")


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """A line for each path whose hash is missing, another or new."""
    for name in sorted({*then, *now}):
        if name not in now:
            yield f"{name}: missing"
        elif name not in then:
            yield f"{name}: added since the report was written"
        elif then[name] != now[name]:
            yield f"{name}: changed (SHA-256 {now[name][:12]}, in the manifest {then[name][:12]})"


def check_report(folder: Path, stored: Manifest | None, done: Verification) -> None:
    """Hash the files of the report, then make it again in memory and compare."""
    from kdbench.report.files import contents
    from kdbench.report.leaderboard import leaderboard

    if stored is not None:
        present = {name: sha256(data) for name, data in files_of(folder, stored.report).items()}
        done.problems += differences(stored.report, present)
        done.checked.append(f"SHA-256 of {plural(len(stored.report), 'file')} of the report")
    try:
        results = load(folder)
        made = {name: bytes(data) for name, data in contents(results, leaderboard(results)).items() if name != NAME}
    except KdbenchError as error:
        done.problems.append(f"the report: cannot be made from these records: {error}")
        return
    there, versions = files_of(folder, made), other_versions(stored)
    why = f" (it was made with other versions: {versions})" if versions else ""
    listed = stored.report if stored else {}
    done.problems += [f"{name}: missing" for name in sorted(set(made) - set(there) - set(listed))]
    other = [name for name in sorted(there) if there[name] != made[name]]
    if len(other) > MANY:
        done.problems.append(f"{len(other)} files of the report: not what the records give{why}: {', '.join(other)}")
    else:
        done.problems += [f"{name}: not what the records give{why}" for name in other]
    odd = sorted(set(listed) - set(made))
    done.problems += [f"{name}: in the manifest, but the report has no such file" for name in odd]
    done.checked.append(f"{plural(len(made), 'file')} of the report, made again in memory")
    if versions:
        done.notes.append(f"the report was made with other versions: {versions}")


def files_of(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The files of these names that are there; what is no plain name is not looked at."""
    plain = (name for name in names if Path(name).name == name)
    return {name: (folder / name).read_bytes() for name in plain if (folder / name).is_file()}


def other_versions(stored: Manifest | None) -> str:
    """`numpy 2.4.6, here 2.5.0; ...`: what the manifest names in another version than is installed; empty for none."""
    if stored is None:
        return ""
    then, now = {"kdbench": stored.kdbench, **stored.libraries}, {"kdbench": kdbench.__version__, **libraries()}
    odd = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name} {then.get(name, 'none')}, here {now.get(name, 'none')}" for name in odd)


def check_current(folder: Path, records: Mapping[str, TrialRecord], done: Verification) -> None:
    """`current.json` must name the records that the study asks for, no fewer and no others: a run that did badly cannot
    be left out by taking its key away."""
    from kdbench.search.agenda import Agenda
    from kdbench.session import study_of

    path = folder / "current.json"
    if not path.exists():
        done.notes.append("current.json: missing, so all records count")
        return
    try:
        wanted = Agenda(study_of(folder), records, lambda key: True).current()
    except KdbenchError as error:
        done.notes.append(f"current.json: which records belong to the study could not be worked out: {error}")
        return
    try:
        stored = strict_json.read(path)
        named = {phase: set(stored.get(phase, ())) for phase in wanted}
    except (ValueError, AttributeError, TypeError) as error:
        done.problems.append(f"current.json: cannot be read ({error})")
        return
    for phase, keys in wanted.items():
        lacks, odd = sorted(set(keys) - named[phase]), sorted(named[phase] - set(keys))
        done.problems += [f"current.json: lacks {key}, a {phase} record of the study" for key in lacks]
        done.problems += [f"current.json: names {key}, which is no {phase} record of the study" for key in odd]
    done.checked.append("which records belong to the study")


def disagreements(records: Iterable[TrialRecord]) -> Iterator[str]:
    """A line for each hash of data, test images, teacher or start that is not that of other records of the same."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        data = f"the data {canonical_json(dict(record.spec.data))}"
        for name, what in (("data_hash", data), ("test_hash", data), *network_hashes(record)):
            if record.environment.get(name) is not None:
                about = name if what == data else what
                found[about, what][str(record.environment[name])].append(f"records/{record.key}.json: {name}")
    for (_, what), by_hash in sorted(found.items()):
        usual = max(by_hash, key=lambda value: (len(by_hash[value]), value))
        others = f"{usual[:12]} in {plural(len(by_hash[usual]), 'record')}"
        for value, places in sorted(by_hash.items()):
            yield from (f"{place} of {what} is {value[:12]}, but {others}" for place in places if value != usual)


def network_hashes(record: TrialRecord) -> Iterator[tuple[str, str]]:
    """For each network that a training began with, the name of its hash in the record's environment, and its key."""
    for role, key in (("teacher", record.spec.teacher), ("init", record.spec.init)):
        if key is not None:
            yield f"{role}_hash", key


def test_results_of_searches(records: Iterable[TrialRecord]) -> Iterator[str]:
    """A line for each search trial that has a result on the test images, which it must never have met."""
    for record in records:
        seen = [name for name in record.result if name.startswith("test_")]
        if record.spec.phase == "search" and seen:
            yield f"records/{record.key}.json: a search trial with results on the test images: {listed(seen)}"


def other_splits(folder: Path, records: Mapping[str, TrialRecord]) -> Iterator[str]:
    """A line for each final record whose data or test hash is not that of splits.json."""
    try:
        section: dict[str, Any] = json.loads((folder / "splits.json").read_bytes())["data"]
        own = {"data_hash": section["hash"], "test_hash": section["test_hash"]}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        yield f"splits.json: cannot be read ({type(error).__name__}: {error})"
        return
    for record in records.values():
        for kind, value in own.items():
            then = record.environment.get(kind)
            if record.spec.phase == "final" and None not in (then, value) and then != value:
                yield f"records/{record.key}.json: {kind} {str(then)[:12]}, but {str(value)[:12]} in splits.json"


def check_weights(folder: Path, records: Mapping[str, TrialRecord], done: Verification) -> None:
    """Where weights are at hand, records must name the hash that they have."""
    store, named = Store(folder), defaultdict[str, dict[str, str]](dict)
    for record in records.values():
        for name, key in network_hashes(record):
            if (then := record.environment.get(name)) is not None:
                named[key].setdefault(str(then), record.key)
    here = {key: store.weights_path(key) for key in named if store.weights_path(key).exists()}
    for key, path in sorted(here.items()):
        now = sha256(path.read_bytes())
        done.problems += [
            f"weights/{path.name}: SHA-256 {now[:12]}, but records/{record}.json names {then[:12]}"
            for then, record in sorted(named[key].items())
            if then != now
        ]
    if here:
        done.checked.append(f"weights of {plural(len(here), 'network')}")
    if len(here) < len(named):
        done.notes.append(f"weights of {len(named) - len(here)} of {plural(len(named), 'network')} are not here")
