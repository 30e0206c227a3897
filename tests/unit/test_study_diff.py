"""What an edit of a study does to the trainings that it has: which are refused, and which only add to them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import StudyError
from kdbench.record import TrialRecord, TrialSpec
from kdbench.search.agenda import Agenda
from kdbench.status import read_only, study_of
from kdbench.study.diff import accepted, check_edit, refused, written
from kdbench.study.load import load_study
from kdbench.study.schema import Study

ROOT = Path(__file__).parents[2]
COMMITTED = ("digits", "cifar10-cpu", "published-teacher")
TEXT = """
study: toy
data: {name: digits, validation: 100}
source: {data: {name: digits, rotate: 90}}
teacher: {model: cnn, depth: 8, epochs: 2}
student: {model: cnn, depth: 5, width: [0.25, 0.5]}
methods:
  scratch:
  kd: {temperature: {low: 1, high: 10}}
  finetune:
search: {trials: 3, repeats: 1, sampler: random, objectives: [val_top1_pct, params]}
final: {seeds: 2}
train: {epochs: 1, lr: 0.1, batch_size: 50}
"""
PAIRS = """
study: toy
data: {name: digits, validation: 100}
networks:
  large: {model: cnn, depth: 8}
  wide: {model: cnn, depth: 8, width: 2.0}
pairs:
  - {teacher: large, student: {model: cnn, depth: 5}}
  - {teacher: wide, student: {model: cnn, depth: 5}}
methods: {scratch: , kd: }
search: {trials: 2, repeats: 1, sampler: random, objectives: [val_top1_pct]}
final: {seeds: 2}
train: {epochs: 1, lr: 0.1, batch_size: 50}
"""

Load = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(*overrides: str, text: str = TEXT) -> Study:
        path = tmp_path / "toy.yaml"
        path.write_text(text)
        return load_study(path, overrides)

    return loaded


def train(study: Study, ends: Callable[[TrialSpec], str] = lambda spec: "finished") -> dict[str, TrialRecord]:
    """The records of the whole study, trained in no time. ends: with which status."""
    records: dict[str, TrialRecord] = {}
    agenda = Agenda(study, records, lambda key: key in records)
    while (job := agenda.next()) is not None:
        spec = job.spec
        result = {"val_top1_pct": int(spec.key, 16) % 97 + 0.5, "params": 100.0 * spec.model.get("width", 9)}
        records[spec.key] = TrialRecord(spec, ends(spec), result, {}, {}, 1, "", "", 1.0)  # type: ignore[arg-type]
        agenda.done(records[spec.key])
    return records


def count(records: dict[str, TrialRecord], *phases: str, row: str | None = None) -> int:
    specs = [record.spec for record in records.values()]
    return sum(spec.phase in phases and (row is None or spec.row == row) for spec in specs)


STUDENTS = ("search", "final")

# a change, what the message says of it, and whose trainings hang on it
REFUSED: dict[str, tuple[str, str, Callable[[dict[str, TrialRecord]], int]]] = {
    "epochs": ("train.epochs=3", "train.epochs: 1 -> 3", lambda r: count(r, "source", *STUDENTS)),
    "learning rate": ("train.lr=0.2", "train.lr: 0.1 -> 0.2", lambda r: count(r, "teacher", "source", *STUDENTS)),
    "time limit": (
        "train.time_limit_s=60", "train.time_limit_s: none -> 60", lambda r: count(r, "teacher", "source", *STUDENTS),
    ),
    "data": ("data.rotate=180", "data.rotate: 0 -> 180", lambda r: count(r, "teacher", *STUDENTS)),
    "split": ("data.split_seed=1", "data.split_seed: 0 -> 1", lambda r: count(r, "teacher", *STUDENTS)),
    "teacher": (
        "teacher.seed=1", "teacher.seed: 0 -> 1", lambda r: count(r, "teacher") + count(r, *STUDENTS, row="kd"),
    ),
    # the pair is named after the teacher's model, and so are the trainings of all rows
    "teacher's size": ("teacher.depth=5", "teacher.depth: 8 -> 5", lambda r: count(r, "teacher", *STUDENTS)),
    "source task": (
        "source.data.rotate=180", "source.data.rotate: 90 -> 180",
        lambda r: count(r, "source") + count(r, *STUDENTS, row="finetune"),
    ),
    "search space": (
        "methods.kd.temperature.high=20", "methods.kd.temperature: {low: 1, high: 10} -> {low: 1, high: 20}",
        lambda r: count(r, *STUDENTS, row="kd"),
    ),
    "fixed value": (
        "methods.kd.lambda=0.5", "methods.kd.lambda: not set -> 0.5", lambda r: count(r, *STUDENTS, row="kd"),
    ),
    "shared range": (
        "search.shared.lr=[0.1, 0.2]", "search.shared.lr: none -> [0.1, 0.2]", lambda r: count(r, *STUDENTS),
    ),
    "student sizes": (
        "student.width=[0.25, 0.5, 1.0]", "student.width: [0.25, 0.5] -> [0.25, 0.5, 1]", lambda r: count(r, *STUDENTS),
    ),
    "objectives": (
        "search.objectives=[val_nll, params]", "search.objectives: [val_top1_pct, params] -> [val_nll, params]",
        lambda r: count(r, *STUDENTS),
    ),
    "sampler": ("search.sampler=tpe", "search.sampler: random -> tpe", lambda r: count(r, *STUDENTS)),
    "startup": ("search.startup=3", "search.startup: none -> 3", lambda r: count(r, *STUDENTS)),
    "batch": ("search.batch=2", "search.batch: 1 -> 2", lambda r: count(r, *STUDENTS)),
    "seed of the search": ("search.seed=5", "search.seed: 0 -> 5", lambda r: count(r, "source", *STUDENTS)),
    "selection": ("final.select=pareto", "final.select: best -> pareto", lambda r: count(r, "final")),
}  # fmt: skip


@pytest.fixture
def trained(load: Load) -> dict[str, TrialRecord]:
    return train(load())


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_that_finished_trainings_do_not_fit_is_refused(
    load: Load, trained: dict[str, TrialRecord], name: str
) -> None:
    override, said, hanging = REFUSED[name]
    (change,) = refused(load(), load(override), trained)
    assert str(change) == said
    assert change.hanging == hanging(trained) > 0


FREE = {
    "more trials": ("search.trials=5",), "fewer trials": ("search.trials=2",), "more repeats": ("search.repeats=2",),
    "more seeds": ("final.seeds=4",), "fewer seeds": ("final.seeds=1",), "another row": ("methods.dkd={}",),
    "a row less": ("methods={scratch: , kd: {temperature: {low: 1, high: 10}}}",),
    "no source and none of its rows": ("source=null", "methods={scratch: , kd: {temperature: {low: 1, high: 10}}}"),
    "a row of another name": ("methods.kd_hot={method: kd, temperature: 20}",),
    "a network and its row": (
        "networks.big={model: cnn, depth: 8, width: 2.0}", "methods.kd_big={method: kd, teacher: big}",
    ),
    "resources": ("resources.cpus_per_trial=2", "resources.executor=local"), "mirror": ("track.mlflow=off",),
    "question": ("question=Why?",), "fronts": ("pareto.reference={top1_pct: 5}",),
    "further measurements": ("evaluation={agreement: true}",),
    "a default written out": ("train.momentum=0.9", "data.grey=false", "teacher.batch_size=50", "student.depth=5"),
    "what follows from the trials written out": ("search.startup=2",),
    "the declared range written out": ("methods.kd.temperature={low: 1, high: 10, log: true}",),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_a_change_that_only_adds_or_leaves_out_is_free(load: Load, trained: dict[str, TrialRecord], name: str) -> None:
    assert refused(load(), load(*FREE[name]), trained) == []


def test_an_edit_without_finished_trainings_behind_it_is_free(load: Load) -> None:
    before = load()
    broken = train(before, lambda spec: "diverged" if spec.row == "kd" else "finished")
    assert refused(before, load("methods.kd.temperature=3"), broken) == []
    assert refused(before, load("train.epochs=9"), {}) == []
    failing = train(before, lambda spec: "failed" if spec.phase == "teacher" or spec.row == "kd" else "finished")
    assert refused(before, load("teacher.time_limit_s=9"), failing) == []


def test_one_training_in_the_way_is_enough(load: Load) -> None:
    records = train(load(), lambda spec: "finished" if spec.phase == "search" and spec.row == "kd" else "failed")
    (change,) = refused(load(), load("methods.kd.temperature=3"), records)
    assert change.hanging == 3


def test_rows_that_were_taken_out_do_not_stand_in_the_way(load: Load, trained: dict[str, TrialRecord]) -> None:
    without = "methods={scratch: , finetune: }"
    assert refused(load(), load(without, "teacher.seed=1"), trained)[0].hanging == 1  # the teacher itself
    only = {key: record for key, record in trained.items() if record.spec.phase != "teacher"}
    assert refused(load(), load(without, "teacher.seed=1"), only) == []


def test_every_change_has_a_line_of_its_own_in_the_order_of_the_study(
    load: Load, trained: dict[str, TrialRecord]
) -> None:
    changes = refused(load(), load("train.lr=0.2", "train.epochs=3", "teacher.seed=1", "search.trials=9"), trained)
    assert [str(change).split(":")[0] for change in changes] == ["teacher.seed", "train.epochs", "train.lr"]


def test_a_teacher_that_is_taken_away_from_its_row_is_refused(load: Load, trained: dict[str, TrialRecord]) -> None:
    instead = ("teacher=null", "networks.big={model: cnn, depth: 8}", "methods.kd.teacher=big")
    fields = {change.field: change.hanging for change in refused(load(), load(*instead), trained)}
    assert fields["teacher",] == count(trained, "teacher", *STUDENTS)


def test_pairs_come_and_go_but_keep_what_they_are(load: Load) -> None:
    before, wide = load(text=PAIRS), "  - {teacher: wide, student: {model: cnn, depth: 5}}\n"
    records = train(before)
    longer = load(text=PAIRS.replace(wide, wide.replace("depth: 5", "depth: 8") + wide))
    assert refused(before, longer, records) == []
    assert accepted(before, longer) == ["pairs.wide -> cnn8 added"]
    assert refused(before, load(text=PAIRS.replace(wide, "")), records) == []
    own = load(text=PAIRS.replace(wide, wide.replace("}}", "}, train: {lr: 0.2}}")))
    (change,) = refused(before, own, records)
    assert str(change) == "pairs[1].train.lr: not set -> 0.2"
    in_pair = [record.spec for record in records.values() if str(record.spec.slot.get("pair")).startswith("wide")]
    assert change.hanging == sum(spec.phase in STUDENTS for spec in in_pair)


def test_a_changed_network_concerns_the_rows_that_learn_from_it(load: Load) -> None:
    before = load(text=PAIRS)
    records = train(before)
    (change,) = refused(before, load("networks.wide.width=1.5", text=PAIRS), records)
    learning = [r for r in records.values() if str(r.spec.slot.get("pair")).startswith("wide") and r.spec.row == "kd"]
    assert str(change) == "networks.wide.width: 2 -> 1.5"
    assert change.hanging == 1 + sum(r.spec.phase in STUDENTS for r in learning)


def test_the_message_names_place_values_count_and_a_free_name(
    load: Load, trained: dict[str, TrialRecord], tmp_path: Path
) -> None:
    before = load()
    text = TEXT.replace("train: {epochs: 1, lr", "train: {epochs: 3, lr")
    after = load("teacher.seed=1", text=text)
    (tmp_path / "results/toy-2").mkdir(parents=True)
    with pytest.raises(StudyError) as raised:
        check_edit(before, after, trained, tmp_path / "results/toy", written(text, "toy.yaml", ["teacher.seed=1"]))
    line = 1 + text.splitlines().index("train: {epochs: 3, lr: 0.1, batch_size: 50}")
    assert raised.value.problems == (
        "--set 'teacher.seed=1': teacher.seed: 0 -> 1. 6 finished trainings of 'toy' hang on the old value.",
        f"toy.yaml:{line}:17: train.epochs: 1 -> 3. {count(trained, 'source', *STUDENTS)} finished trainings of 'toy' "
        "hang on the old value.",
        f"{tmp_path / 'results/toy'} holds what was trained before these changes, and the two cannot stand in one "
        "table. Take them back, or keep the old results and begin new ones by another name, study: toy-3",
    )


def test_a_field_that_was_deleted_is_shown_where_it_stood(load: Load, trained: dict[str, TrialRecord]) -> None:
    text = TEXT.replace(", validation: 100", "")
    with pytest.raises(StudyError, match=r"^toy\.yaml:3:\d+: data\.validation: 100 -> none\. "):
        check_edit(load(), load(text=text), trained, Path("results/toy"), written(text, "toy.yaml"))


def test_what_was_accepted_is_said_in_a_few_words(load: Load) -> None:
    after = load("final.seeds=3", "methods={scratch: , dkd: }", "source=null")
    assert accepted(load(), after) == [
        "methods.dkd added", "methods.kd removed: its records are kept, and left out",
        "methods.finetune removed: its records are kept, and left out", "source removed", "final.seeds: 2 -> 3",
    ]  # fmt: skip
    assert accepted(load(), load()) == []


def test_an_older_study_json_without_newer_fields_is_not_changed(load: Load, trained: dict[str, TrialRecord]) -> None:
    """As stored before `evaluation`, `startup`, `batch`, `shared`, `max_retries` and others were there."""
    stored = json.loads(json.dumps(load().to_json()))
    for section, fields in {
        "search": ("startup", "batch", "shared"), "train": ("clip_norm", "target_top1_pct", "time_limit_s"),
        "resources": tuple(stored["resources"]), "pareto": tuple(stored["pareto"]), "track": ("mlflow",),
    }.items():  # fmt: skip
        for field in fields:
            stored[section].pop(field, None)
    old = Study.model_validate(stored)
    assert accepted(old, load()) == [] and refused(old, load(), trained) == []


def committed(name: str) -> Iterator[Any]:
    yield study_of(ROOT / "results" / name)
    yield load_study(ROOT / "studies" / f"{name}.yaml")
    yield read_only(ROOT / "results" / name)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_study_goes_on_with_its_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now, records = committed(name)
    assert len(records) > 20
    assert refused(before, now, records) == []
    check_edit(before, now, records, ROOT / "results" / name, None)


@pytest.mark.parametrize("name", COMMITTED)
def test_an_edit_of_a_committed_study_is_refused(name: str) -> None:
    before, now, records = committed(name)
    edited = now.model_copy(update={"train": now.train.model_copy(update={"epochs": now.train.epochs + 1})})
    (change,) = refused(before, edited, records)
    assert change.hanging > 10 and not math.isnan(change.new)
