"""Did every method get the same? One row per method; a row that differs from the majority is marked and not ranked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbench.combine import kind_from
from kdbench.data import datasets
from kdbench.fields import fields_of
from kdbench.labels import model_label, plural, settings_label, value_label
from kdbench.method import Method, methods
from kdbench.record import STATUSES, TrialRecord, canonical_json
from kdbench.report.load import Results

VIEWS = ("crop", "flip")
PHASES = ("search", "final")
FAILURES: tuple[str, ...] = tuple(status for status in STATUSES if status != "finished")


@dataclass(frozen=True)
class Fairness:
    """What one method was given, in words that are compared cell by cell.

    cells: by column of COMPARED; None where it does not apply (a method without a teacher) or nothing has run.
    search_run, search_planned: trials of all repeats. final_run, final_planned: trainings over all configurations.
    failures: `search_failed` and so on -> count. start: `random`, `source task`, or the name of another network; None
    where nothing has run. source_wall_s: of the networks that the row starts from and learns from, other than the
    teacher of the study, and of those that these need; rows that share them each count them.
    by_definition: settings of training that the method itself fixes, whatever the study says; empty for most.
    further_images: whether the method, by definition, runs its networks on images beside the views of the study.
    differs: columns that are unlike the majority; reasons: in words.
    """

    pair: str
    method: str
    cells: Mapping[str, str | None]
    search_run: int
    search_planned: int | None
    final_run: int
    final_planned: int | None
    configurations: int
    failures: Mapping[str, int]
    search_wall_s: float
    final_wall_s: float
    start: str | None = None
    source_wall_s: float = 0.0
    by_definition: str = ""
    further_images: bool = False
    differs: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether less has run than was planned."""
        return (
            (self.search_planned is not None and self.search_run < self.search_planned)
            or (self.final_planned is not None and self.final_run < self.final_planned)
            or not self.configurations
        )


COMPARED: dict[str, str] = {
    "search_trials": "search trials",
    "search_repeats": "search repeats",
    "search_epochs": "search epochs",
    "final_epochs": "final epochs",
    "training": "training",
    "hardware": "hardware",
    "shared": "searched for all",
    "data": "data",
    "views": "views",
    "data_hash": "data hash",
    "teacher": "teacher",
    "teacher_hash": "teacher hash",
    "student_space": "student space",
    "selection": "selection rule",
}


def fairness(results: Results) -> list[Fairness]:
    """The fairness table: every (pair, method) that was asked for or has run, in the study's order."""
    out, trials = [], _by_place(results)
    for pair in results.pairs:
        own = (r.key for r in results.phase("teacher") if results.role(r.key, pair) == "teacher")
        teacher = next((_teacher(results, key, pair) for key in own), None)
        rows = [_row(results, pair, method, trials) for method in results.methods]
        out += [_marked(row, rows, teacher) for row in rows]
    return out


def planned_search(results: Results) -> int | None:
    """Search trials per method over all repeats, or None where the study does not say."""
    search = results.section("search")
    return int(search["trials"]) * int(search.get("repeats", 1)) if "trials" in search else None


def planned_seeds(results: Results) -> int | None:
    """Final seeds per configuration, or None where the study does not say."""
    seeds = results.section("final").get("seeds")
    return None if seeds is None else int(seeds)


def configuration(record: TrialRecord) -> tuple[str, ...]:
    """What final trainings of one configuration have in common: row, method, student and training, but not the seed."""
    spec = record.spec
    return (spec.row, *(canonical_json(dict(part)) for part in (spec.method, spec.model, spec.train)))


def by_definition(record: TrialRecord) -> dict[str, Any]:
    """Settings of training that the record's method fixes by definition: `{"weight_decay": 0.0}` for `l2sp`.

    Empty for a method that is not registered here: a report must not need the code that made the records.
    """
    return {name: value for part in _parts(record) for name, value in part.optimiser().items()}


def _parts(record: TrialRecord) -> list[Method]:
    """The methods that the record's method is made of: itself, unless it joins several. None if one is unknown here."""
    config = record.spec.method
    parts = config.get("parts", {config["name"]: record.spec.hyper})
    if any(name not in methods for name in parts):
        return []
    known = {name: fields_of(methods.get(name)) for name in parts}
    return [kind_from({"name": n, **{k: v for k, v in h.items() if k in known[n]}}) for n, h in parts.items()]


def majority(values: Sequence[str | None], preferred: str | None = None) -> str | None:
    """The most frequent value; of tied ones the preferred, else None. None does not vote."""
    votes = Counter(value for value in values if value is not None).most_common()
    tied = [value for value, count in votes if count == votes[0][1]]
    if len(tied) == 1 or preferred in tied:
        return preferred if preferred in tied else tied[0]
    return None


Trials = Mapping[tuple[str, str, str], list[TrialRecord]]


def _by_place(results: Results) -> Trials:
    """The trainings of students by phase, pair and row: looked through once, for there can be thousands."""
    places: dict[tuple[str, str, str], list[TrialRecord]] = defaultdict(list)
    for record in results.records:
        if record.spec.phase in PHASES:
            places[record.spec.phase, results.pair(record), record.spec.row].append(record)
    return places


def _row(results: Results, pair: str, method: str, trials: Trials) -> Fairness:
    search, final = (trials.get((phase, pair, method), []) for phase in PHASES)
    both = search + final
    needed = results.behind(key for r in both for key in (r.spec.teacher, r.spec.init))
    main = results.behind(key for key in needed if results.role(key, pair) == "teacher")
    configurations = len({configuration(r) for r in final})
    seeds, planned = planned_seeds(results), planned_search(results)
    final_run = len({(configuration(r), r.spec.seed) for r in final})
    return Fairness(
        pair, method, _cells(results, pair, search, final), len(search), planned, final_run,
        None if seeds is None else seeds * configurations, configurations,
        {f"{p}_{s}": sum(t.status == s for t in trials.get((p, pair, method), ())) for p in PHASES for s in FAILURES},
        sum(r.wall_s for r in search), sum(r.wall_s for r in final),
        _distinct(_start(results, r) for r in both),
        sum(r.wall_s for r in needed.values() if r.key not in main),
        _distinct(settings_label(by_definition(r)) or None for r in both) or "",
        any(part.has_inputs for record in both for part in _parts(record)),
    )  # fmt: skip


def _cells(results: Results, pair: str, search: list[TrialRecord], final: list[TrialRecord]) -> dict[str, str | None]:
    both, rule = search + final, results.section("final").get("select")
    fixed = [{k: v for k, v in r.spec.train.items() if k != "epochs" and k not in results.shared} for r in both]
    repeats = {r.spec.slot.get("repeat") for r in search}
    return {
        "search_trials": str(len(search)) if both else None,
        "search_repeats": str(len(repeats)) if both else None,
        "search_epochs": _distinct(r.spec.train.get("epochs") for r in search),
        "final_epochs": _distinct(r.spec.train.get("epochs") for r in final),
        "training": _distinct(settings_label(dict(sorted(settings.items()))) for settings in fixed),
        "hardware": _distinct(_hardware(r.environment) for r in both),
        "shared": (settings_label(results.shared) or "nothing") if both else None,
        "data": _distinct(settings_label(_images(r.spec.data)) for r in both),
        "views": _distinct(views(r.spec.data) for r in both),
        "data_hash": _distinct(_short(r.environment.get("data_hash")) for r in both),
        "teacher": _distinct(_teacher(results, r.spec.teacher, pair) for r in both if r.spec.teacher),
        "teacher_hash": _distinct(_short(r.environment.get("teacher_hash")) for r in both if r.spec.teacher),
        "student_space": _student_space(results.student(pair), both),
        "selection": None if rule is None or not both else str(rule),
    }


def _images(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the data that say which images there are: all but those of the views."""
    return {name: value for name, value in sorted(data.items()) if name not in VIEWS}


def views(data: Mapping[str, Any]) -> str:
    """`random crop of 4 px, mirrored`: what is drawn anew of an image in every epoch.

    What the settings leave to the data set is that of the registered set; of others it is not known here.
    """
    name = str(data.get("name"))
    own = datasets.get(name) if name in datasets else None
    crop, flip = (data.get(field, getattr(own, field, None)) for field in VIEWS)
    if hasattr(own, "crop_share") and "crop" not in data:
        crop = None  # it is a share of the size of the images
    shift = "crop by default" if crop is None else f"random crop of {crop} px" if crop else "no crop"
    mirror = "mirrored by default" if flip is None else "mirrored" if flip else "not mirrored"
    return f"{shift}, {mirror}"


def _start(results: Results, record: TrialRecord) -> str:
    """What a student starts from, in words."""
    if record.spec.init is None:
        return "random"
    name = results.names.get(record.spec.init, "source")
    return "source task" if name == "source" else name


def _teacher(results: Results, key: str, pair: str) -> str | None:
    """`resnet56` for the teacher of the pair, `assistant (resnet14)` for another network, `generation1` for one of the
    students' own sizes; None for one unknown."""
    record, name = results.by_key.get(key), results.role(key, pair)
    if record is None:
        return None
    label = model_label(record.spec.model)
    if record.spec.phase == "source":
        return name
    return label if name == "teacher" else f"{name} ({label})"


def _hardware(environment: Mapping[str, Any]) -> str | None:
    """`cpu, 1 thread, fp32`: what decides rounding. None for a training that failed before it knew."""
    if "precision" not in environment:
        return None
    device = str(environment.get("device", "unknown device")).partition(":")[0]  # cuda:0 and cuda:1 are alike
    count = int(environment.get("processes", 1))
    processes = [f"{count} processes"] if count > 1 else []
    threads = [plural(int(environment["threads"]), "thread")] if "threads" in environment else []
    norm = ["batch norm per process"] if environment.get("batch_norm") == "per process" else []
    return ", ".join([device, *processes, *threads, str(environment["precision"]), *norm])


def _student_space(asked: Mapping[str, Any], records: list[TrialRecord]) -> str | None:
    """The student sizes that the study allows, and any size outside of them that a record used all the same."""
    if not records:
        return None
    odd = {
        f"{name}={value_label(value)}"
        for record in records
        for name, value in record.spec.model.items()
        if not _allows(asked.get("model" if name == "name" else name), value)
    }
    space = settings_label({k: asked[k] for k in asked}) or "not stated"
    return f"{space}; but ran {', '.join(sorted(odd))}" if odd else space


def _allows(asked: Any, value: Any) -> bool:
    if isinstance(asked, Mapping) and "low" in asked and "high" in asked:
        return bool(asked["low"] <= value <= asked["high"])
    if isinstance(asked, Mapping) and "each" in asked:
        asked = asked["each"]
    if asked is None or isinstance(asked, Mapping):  # nothing said, or said in a form that is not a list of values
        return True
    return value in asked if isinstance(asked, (list, tuple)) else bool(value == asked)


def _marked(row: Fairness, rows: list[Fairness], own_teacher: str | None) -> Fairness:
    differs, reasons = [], []
    for name, title in COMPARED.items():
        if name == "teacher_hash" and "teacher" in differs:
            continue  # another network has another hash, which is said already
        usual = _usual(name, row, rows, own_teacher)
        cell = row.cells[name]
        if cell is None or cell == usual:
            continue
        differs.append(name)
        if name == "search_trials" and row.search_planned:
            reasons.append(f"search {row.search_run} of {row.search_planned} trials")
        else:
            reasons.append(
                f"{title}: {cell}; the others: {usual}" if usual else f"{title}: {cell}; there is no majority"
            )
    return replace(row, differs=tuple(differs), reasons=tuple(reasons))


def _usual(name: str, row: Fairness, rows: list[Fairness], own_teacher: str | None) -> str | None:
    """What the rows have in a column by majority. The usual teacher is that of the pair where a row has it, whatever
    most rows have, and its hash is that of the rows that learn from the same network."""
    if name == "teacher_hash":
        rows = [other for other in rows if other.cells["teacher"] == row.cells["teacher"]]
    cells = [other.cells[name] for other in rows]
    if name == "teacher" and own_teacher is not None and own_teacher in cells:
        return own_teacher
    return majority(cells, str(row.search_planned) if name == "search_trials" else None)


def _distinct(values: Any) -> str | None:
    found = sorted({str(value) for value in values if value is not None})
    return " / ".join(found) or None


def _short(digest: Any) -> str | None:
    return None if digest is None else str(digest).removeprefix("sha256:")[:12]
