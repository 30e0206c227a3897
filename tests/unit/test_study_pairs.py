"""Several pairs of teacher and student in one study: each with its own teacher, training and name."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from kdbench.errors import StudyError
from kdbench.estimate import SAMPLE, sample
from kdbench.record import TrialRecord, TrialSpec
from kdbench.search.agenda import Agenda
from kdbench.study.json_schema import json_schema
from kdbench.study.load import load_study
from kdbench.study.networks import fixed_networks, networks, shown_name, student_networks
from kdbench.study.plan import Stream, Trials, cell_of, final_spec, job_of, pair_label, streams
from kdbench.study.schema import Study
from kdbench.study.yaml_source import read_yaml

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "studies" / "cifar100-table.yaml"
NETWORKS = """networks:
  large: {model: cnn, depth: 8}
  wide: {model: cnn, depth: 8, width: 2, epochs: 7}
  assistant: {model: cnn, depth: 5, method: kd}
  born: {model: student, method: kd}
"""
PAIRS = """pairs:
  - {teacher: large, student: {model: cnn, depth: 5}}
  - {teacher: wide, student: {model: cnn, depth: 5}, train: {lr: 0.01}}
  - {teacher: wide, student: {model: cnn, depth: 5, width: [0.25, 0.5]}}
  - {teacher: large, student: {model: cnn, width: {each: [0.25, 0.5]}}}
"""
REST = """methods:
  scratch:
  kd:
  takd: {method: kd, teacher: assistant}
  named: {method: kd, teacher: teacher}
  born_again: {method: kd, teacher: born}
  tuned: {method: finetune}
search: {trials: 1, repeats: 1, shared: {lr: [0.1, 0.01]}}
final: {seeds: 1}
train: {epochs: 5, lr: 0.1}
"""
HEAD = "study: small\ndata: {name: digits, validation: 180}\nsource: {data: {name: digits, rotate: 90}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(HEAD + NETWORKS + PAIRS + REST)
    return path


@pytest.fixture
def study(path: Path) -> Study:
    return load_study(path)


def first(study: Study, cell: str, row: str) -> tuple[Stream, TrialSpec]:
    stream = next(s for s in streams(study) if (s.cell.name, s.row) == (cell, row))
    return stream, Trials(study, stream).spec(0, study.defaults(row, stream.cell))


def test_every_pair_is_a_cell_with_its_name_and_each_has_one_for_each_value(study: Study) -> None:
    names = ["large -> cnn5", "wide -> cnn5", "wide -> cnn", "large -> cnn width=0.25", "large -> cnn width=0.5"]
    assert [pair_label(study, cell) for cell in study.cells()] == names
    assert study.cells()[2].space.keys() == {"width"}
    assert len({stream.name for stream in streams(study)}) == 5 * 6


def test_a_row_learns_from_the_teacher_of_its_pair(study: Study) -> None:
    fixed = fixed_networks(study)
    for cell, teacher in (("large -> cnn5", "large"), ("wide -> cnn5", "wide"), ("large -> cnn width=0.5", "large")):
        for row in ("kd", "named"):
            stream, spec = first(study, cell, row)
            assert spec.teacher == fixed[teacher].key
            assert job_of(study, spec).teacher == fixed[teacher]
            assert cell_of(study, spec) == stream.cell
            assert job_of(study, final_spec(study, spec, 0)).teacher == fixed[teacher]


def test_the_training_of_a_pair_is_that_of_its_students_and_of_networks_of_their_size(study: Study) -> None:
    stream, spec = first(study, "wide -> cnn5", "born_again")
    assert study.defaults("kd", stream.cell)["shared.lr"] == spec.train["lr"] == 0.01
    job = job_of(study, spec)
    assert job.teacher is not None and job.teacher.train["lr"] == 0.01
    _, tuned = first(study, "wide -> cnn5", "tuned")
    start = job_of(study, tuned).init
    assert start is not None and start.train["lr"] == 0.01
    fixed = fixed_networks(study)
    assert {spec.train["lr"] for spec in fixed.values()} == {0.1}
    assert fixed["wide"].train["epochs"] == 7
    _, other = first(study, "large -> cnn5", "born_again")
    assert other.train["lr"] == 0.1 and job_of(study, other).teacher != job.teacher


def test_a_network_that_learns_from_the_teacher_is_another_one_for_each_teacher(study: Study) -> None:
    fixed = fixed_networks(study)
    assert list(fixed) == ["large", "assistant of large", "wide", "assistant of wide"]
    assert fixed["assistant of large"].teacher == fixed["large"].key
    assert fixed["assistant of wide"].teacher == fixed["wide"].key
    assert {spec.phase for spec in fixed.values()} == {"teacher"}
    assert student_networks(study) == ["born", "source"]
    cell = study.cells()[0]
    assert shown_name(study, "born", cell) == "born" and shown_name(study, "large", cell) == "large"
    assert set(networks(study, {"name": "cnn", "depth": 5, "width": 1.0}, cell)) >= {"assistant of large", "born"}


def test_a_pair_is_called_the_same_and_keeps_its_keys_whatever_other_pairs_there_are(study: Study, path: Path) -> None:
    alone = load_study(path, ["pairs=[{teacher: wide, student: {model: cnn, depth: 5}, train: {lr: 0.01}}]"])
    for row in study.methods:
        _, spec = first(study, "wide -> cnn5", row)
        assert first(alone, "wide -> cnn5", row)[1].key == spec.key


def test_the_agenda_trains_the_teachers_of_all_pairs_and_then_each_pair_with_its_own(study: Study) -> None:
    records: dict[str, TrialRecord] = {}
    agenda, teachers = Agenda(study, records, lambda key: key in agenda.records), {}
    while (job := agenda.next()) is not None:
        spec = job.spec
        if spec.row == "kd" and spec.phase in ("search", "final"):
            assert job.teacher is not None
            teachers.setdefault(spec.slot["pair"], set()).add(agenda.name_of(job.teacher))
        result = {"val_top1_pct": 50.0, "test_top1_pct": 50.0, "params": 10.0}
        agenda.done(TrialRecord(spec, "finished", result, {}, {}, 1, "", "", 1.0))
    assert agenda.finished and agenda.left() == 0
    assert teachers == {
        "large -> cnn5": {"large"}, "wide -> cnn5": {"wide"}, "wide -> cnn": {"wide"},
        "large -> cnn width=0.25": {"large"}, "large -> cnn width=0.5": {"large"},
    }  # fmt: skip
    assert set(agenda.network_names().values()) == {
        "large", "wide", "assistant of large", "assistant of wide", "born", "source",
    }  # fmt: skip
    again = Agenda(study, agenda.records, lambda key: True)
    assert again.finished and again.current()["final"] == agenda.current()["final"]


def test_a_study_of_pairs_is_stored_and_read_back_the_same(study: Study) -> None:
    stored = study.to_json()
    assert "student" not in stored and stored["pairs"][1] == {
        "teacher": "wide", "student": {"model": "cnn", "depth": 5}, "train": {"lr": 0.01},
    }  # fmt: skip
    assert Study.model_validate(stored) == study


def test_pairs_can_be_set_from_the_command_line_but_not_beside_a_student(tmp_path: Path) -> None:
    path = tmp_path / "student.yaml"
    path.write_text(HEAD + NETWORKS + "student: {model: cnn}\nmethods: {scratch: , kd: {teacher: large}}\n"
                    "search: {trials: 1}\ntrain: {epochs: 5, lr: 0.1}\n")  # fmt: skip
    pairs = "pairs=[{teacher: large, student: {model: cnn, depth: 5}}]"
    assert [cell.name for cell in load_study(path, ["student=null", pairs]).cells()] == ["large -> cnn5"]
    with pytest.raises(StudyError, match=r"student: no effect beside 'pairs'"):
        load_study(path, [pairs])


def test_a_pair_without_a_small_enough_student_is_refused(path: Path) -> None:
    pairs = "pairs=[{teacher: large, student: {model: cnn, max_params: 10}}]"
    with pytest.raises(StudyError, match=re.escape("pairs[0].student.max_params: got 10, but the smallest")):
        load_study(path, [pairs])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("tuned: {method: finetune, start: teacher}", "methods.tuned.start: 'large' has another size than the student"),
        ("tuned: {method: finetune, start: wide}", "methods.tuned.start: 'wide' has another size than the student"),
        ("takd: {method: kd, teacher: lage}", "methods.takd.teacher: unknown network 'lage'"),
    ],
)
def test_what_a_row_names_has_to_fit_every_pair(path: Path, row: str, message: str) -> None:
    label, _, rest = row.partition(": ")
    with pytest.raises(StudyError, match=re.escape(message)):
        load_study(path, [f"methods.{label}={rest}"])


def test_the_json_schema_takes_either_a_student_or_pairs(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for file in (path, TABLE):
        assert validator.is_valid(read_yaml(file.read_text(), file.name).root)
    raw = read_yaml(path.read_text(), path.name).root
    assert not validator.is_valid({**raw, "student": {"model": "cnn"}})
    assert not validator.is_valid({name: item for name, item in raw.items() if name != "pairs"})


def test_of_many_searches_a_sample_with_every_row_and_every_cell_is_measured() -> None:
    every = streams(load_study(TABLE))
    chosen = sample(every)
    assert len(chosen) < SAMPLE < len(every)
    assert {s.row for s in chosen} == {s.row for s in every}
    assert {s.cell.name for s in chosen} == {s.cell.name for s in every}


def test_few_searches_are_all_measured(study: Study) -> None:
    assert len(sample(streams(study))) == 5 * 6


def test_the_cifar_100_table_has_the_twelve_published_pairs_at_the_published_recipe() -> None:
    study = load_study(TABLE)
    assert [cell.name for cell in study.cells()] == [
        "resnet56 -> resnet20", "resnet110 -> resnet32", "resnet32x4 -> resnet8x4", "WRN-40-2 -> WRN-16-2",
        "WRN-40-2 -> WRN-40-1", "vgg13 -> vgg8", "resnet32x4 -> shufflenetv1", "resnet32x4 -> shufflenetv2",
        "vgg13 -> mobilenetv2", "resnet50 -> mobilenetv2", "WRN-40-2 -> shufflenetv1", "resnet50 -> vgg8",
    ]  # fmt: skip
    for cell in study.cells():
        light = cell.model.startswith(("shufflenet", "mobilenet"))
        _, spec = first(study, cell.name, "scratch")
        assert spec.train["lr"] == (0.01 if light else 0.05)
        assert (spec.train["epochs"], spec.train["batch_size"], spec.train["weight_decay"]) == (240, 64, 5e-4)
        assert (spec.train["milestones"], spec.train["nesterov"]) == ([150, 180, 210], False)
    assert {spec.train["lr"] for spec in fixed_networks(study).values()} == {0.05}
    assert {stream.row for stream in streams(study)} >= {
        "kd",
        "dkd",
        "crd",
        "ofd",
        "review_kd",
        "ofa",
        "kd_standardised",
    }
