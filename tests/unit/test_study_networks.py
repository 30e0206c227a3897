"""Networks of a study as specs: their seeds, phases and what they need; and that older records keep their keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kdbench.record import TrialRecord, TrialSpec
from kdbench.search.agenda import Agenda
from kdbench.seeds import seed_for
from kdbench.session import read_only, study_of
from kdbench.study.load import load_study
from kdbench.study.networks import closure, fixed_networks, networks, of_student, roots, student_networks
from kdbench.study.plan import Trials, job_of, job_with, streams
from kdbench.study.schema import Study

RESULTS = sorted((Path(__file__).parents[2] / "results").glob("*/study.json"))
MODEL = {"name": "cnn", "depth": 5, "width": 0.5}
TEXT = """
study: small
data: {name: digits, validation: 180}
source: {data: {name: digits, rotate: 90}, epochs: 3}
teacher: {model: cnn, depth: 8, epochs: 4}
networks:
  assistant: {model: cnn, depth: 5, method: kd, settings: {temperature: 2}, seed: 3}
  early: {model: cnn, depth: 8, epochs: 4, stop_epoch: 2}
  generation1: {model: student, method: kd}
  generation2: {model: student, method: kd, teacher: generation1}
  committee: {ensemble: [teacher, assistant], average: probabilities}
  generations: {ensemble: [generation1, generation2]}
  source_teacher: {model: cnn, depth: 8, data: {name: digits, rotate: 90}}
  tuned: {model: cnn, depth: 8, method: finetune, start: source_teacher}
  unused: {model: cnn}
student: {model: cnn, depth: 5, width: [0.5]}
methods:
  scratch:
  kd:
  takd: {method: kd, teacher: assistant}
  rco: {method: kd, teacher: early}
  born_again: {method: kd, teacher: generations}
  committee: {method: kd, teacher: committee}
  tuned: {method: kd, teacher: tuned, start: source}
search: {trials: 1, repeats: 1}
train: {epochs: 5, lr: 0.1}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def study(path: Path) -> Study:
    return load_study(path)


@pytest.fixture
def specs(study: Study) -> dict[str, TrialSpec]:
    return networks(study, MODEL)


def test_a_network_of_fixed_size_on_the_study_s_data_is_tested_and_others_are_not(specs: dict[str, TrialSpec]) -> None:
    assert {name for name, spec in specs.items() if spec.phase == "teacher"} == {
        "teacher", "assistant", "early", "committee", "tuned", "unused",
    }  # fmt: skip
    assert {spec.phase for spec in specs.values()} == {"teacher", "source"}


def test_a_network_has_all_hyper_parameters_of_its_method_and_its_own_training(specs: dict[str, TrialSpec]) -> None:
    assistant = specs["assistant"]
    assert assistant.method == {"name": "kd", "temperature": 2.0, "lambda": 0.9, "ce_weight": 0.1}
    assert (assistant.teacher, assistant.train["epochs"]) == (specs["teacher"].key, 5)
    assert assistant.seed == seed_for(3, "teacher")
    assert specs["tuned"].init == specs["source_teacher"].key
    assert specs["source_teacher"].data == {"name": "digits", "rotate": 90}


def test_a_training_that_stops_early_lies_on_the_route_of_the_teacher(specs: dict[str, TrialSpec]) -> None:
    teacher, early = specs["teacher"], specs["early"]
    assert (early.seed, early.model, early.data) == (teacher.seed, teacher.model, teacher.data)
    assert dict(early.train) == {**teacher.train, "stop_epoch": 2}
    assert "stop_epoch" not in teacher.train


def test_networks_of_the_student_s_size_have_its_model_and_seeds_of_their_own(specs: dict[str, TrialSpec]) -> None:
    first, second = specs["generation1"], specs["generation2"]
    assert first.model == second.model == MODEL
    assert second.teacher == first.key and first.teacher == specs["teacher"].key
    assert first.seed != second.seed


def test_an_ensemble_names_its_members_and_is_not_trained(specs: dict[str, TrialSpec]) -> None:
    committee = specs["committee"]
    members = [dict(specs["teacher"].model), dict(specs["assistant"].model)]
    assert committee.model == {"name": "ensemble", "average": "probabilities", "members": members}
    assert committee.members == (specs["teacher"].key, specs["assistant"].key)
    assert (committee.method, committee.train, committee.seed) == ({"name": "ensemble"}, {}, 0)
    assert specs["generations"].model["average"] == "logits"


def test_networks_come_in_an_order_in_which_they_can_be_made(study: Study) -> None:
    found = closure(study, roots(study))
    for before, after in [("teacher", "assistant"), ("generation1", "generation2"), ("generation2", "generations"),
                          ("assistant", "committee"), ("source_teacher", "tuned")]:  # fmt: skip
        assert found.index(before) < found.index(after)
    assert "unused" not in found and len(found) == len(set(found))


def test_networks_are_fixed_unless_they_hang_on_the_size_of_the_student(study: Study) -> None:
    assert set(fixed_networks(study)) == {"teacher", "assistant", "early", "committee", "source_teacher", "tuned"}
    assert set(student_networks(study)) == {"generation1", "generation2", "generations", "source"}
    assert of_student(study, "generations") and not of_student(study, "committee")
    other = networks(study, {**MODEL, "width": 1.0})
    assert all(spec == other[name] for name, spec in fixed_networks(study).items())


def test_a_job_carries_the_networks_that_its_row_names(study: Study, specs: dict[str, TrialSpec]) -> None:
    jobs = {}
    for stream in streams(study):
        spec = Trials(study, stream).spec(0, study.defaults(stream.row, stream.cell))
        jobs[stream.row] = job_of(study, spec)
    assert jobs["scratch"].needs == ()
    assert jobs["kd"].teacher == specs["teacher"] and jobs["kd"].init is None
    assert jobs["takd"].teacher == specs["assistant"]
    assert jobs["born_again"].teacher == specs["generations"]
    assert jobs["tuned"].needs == (specs["tuned"], specs["source"])
    by_key = {spec.key: spec for spec in specs.values()}
    assert job_with(specs["committee"], by_key).members == (specs["teacher"], specs["assistant"])


def test_the_sections_teacher_and_source_give_the_specs_that_they_always_gave(specs: dict[str, TrialSpec]) -> None:
    teacher, source = specs["teacher"], specs["source"]
    assert (teacher.seed, teacher.method, teacher.slot) == (seed_for(0, "teacher"), {"name": "scratch"}, {})
    assert (source.seed, source.model, source.train["epochs"]) == (seed_for(0, "source"), MODEL, 3)


def test_a_teacher_may_come_about_as_any_network_does(path: Path) -> None:
    study = load_study(path, ["teacher={model: cnn, depth: 8, method: finetune, start: source_teacher, stop_epoch: 2}"])
    specs = networks(study, MODEL)
    assert specs["teacher"].init == specs["source_teacher"].key
    assert specs["teacher"].train["stop_epoch"] == 2


def test_a_checkpoint_is_named_by_its_hash_and_wrapped_where_it_has_a_normalisation(path: Path) -> None:
    file = path.with_name("weights.pt")
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    written = f"{{model: cnn, depth: 8, checkpoint: {file}, normalise: {{mean: [0.5], std: [0.25]}}}}"
    study = load_study(path, [f"networks.published={written}", "methods.kd.teacher=published"])
    spec = fixed_networks(study)["published"]
    assert (spec.method, spec.train, spec.seed) == ({"name": "checkpoint", "sha256": digest}, {}, 0)
    inner = {"name": "cnn", "depth": 8, "width": 1.0}
    assert spec.model == {"name": "normalised", "mean": [0.5], "std": [0.25], "model": inner}
    again = Study.model_validate(json.loads(json.dumps(study.to_json())))
    file.unlink()  # a report needs the records, not the file
    assert fixed_networks(again)["published"].key == spec.key


def test_a_checkpoint_is_also_looked_for_in_the_data_root(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = path.parent / "root"
    (root / "teachers").mkdir(parents=True)
    (root / "teachers/cnn.pt").write_bytes(b"weights")
    monkeypatch.setenv("KDBENCH_DATA", str(root))
    study = load_study(path, ["teacher={model: cnn, checkpoint: teachers/cnn.pt}"])
    assert fixed_networks(study)["teacher"].method_name == "checkpoint"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_committed_records_keep_their_keys_and_belong_to_their_study(path: Path) -> None:
    records = read_only(path.parent)  # a record whose key does not fit is an error
    agenda = Agenda(study_of(path.parent), records, lambda key: True)
    current = json.loads((path.parent / "current.json").read_bytes())
    assert agenda.finished
    assert current.pop("networks", {}) == (agenda.network_names() if agenda.study.networks else {})
    assert {phase: sorted(keys) for phase, keys in agenda.current().items()} == {
        phase: sorted(keys) for phase, keys in current.items()
    }
    for record in list(records.values())[:3]:
        assert TrialRecord.from_json(record.to_json()).to_json() == record.to_json()
