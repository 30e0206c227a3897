"""Rows of a study: labels of their own, methods joined into one, sizes within a budget of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import KdbenchError, StudyError
from kdbench.fields import Choice, Range, fields_of
from kdbench.method import methods
from kdbench.record import TrialSpec
from kdbench.study import schemes
from kdbench.study.counting import parameter_count
from kdbench.study.load import load_study
from kdbench.study.plan import Stream, Trials, final_spec, streams
from kdbench.study.rows import RESERVED
from kdbench.study.schema import Study

TEXT = """
study: small
data: {name: digits, validation: 180}
teacher: {model: cnn, depth: 8}
networks:
  assistant: {model: cnn, depth: 5}
student: {model: cnn, depth: 5, width: [0.5, 0.25]}
methods:
  kd:
  takd: {method: kd, teacher: assistant, temperature: 6}
  listed: {combine: [kd, attention_transfer]}
  written: {combine: {fitnet: {beta: 8}, kd: {temperature: {low: 2, high: 8}}}, weights: {kd: {low: 0.1, high: 10, log: true}, fitnet: 2}}
search: {trials: 3, repeats: 1}
train: {epochs: 5, lr: 0.1}
"""  # noqa: E501


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def study(path: Path) -> Study:
    return load_study(path)


def first_spec(study: Study, row: str) -> TrialSpec:
    """Trial 0 of a row."""
    stream = next(stream for stream in streams(study) if stream.row == row)
    return Trials(study, stream).spec(0, study.defaults(row, stream.cell))


def test_a_row_with_a_label_of_its_own_is_that_label_and_a_plain_row_is_its_method(study: Study) -> None:
    plain, own = first_spec(study, "kd"), first_spec(study, "takd")
    assert (plain.row, plain.method_name, "row" in plain.slot) == ("kd", "kd", False)
    assert (own.row, own.method_name, own.slot["row"]) == ("takd", "kd", "takd")
    assert own.method["temperature"] == 6.0
    assert own.seed == plain.seed


def test_a_final_training_keeps_the_label_of_its_row(study: Study) -> None:
    chosen = first_spec(study, "takd")
    final = final_spec(study, chosen, 0)
    assert final.row == "takd"
    assert final.slot == {"pair": "cnn8 -> cnn", "final": 0, "chosen": chosen.key, "row": "takd"}
    assert final.teacher == chosen.teacher


def test_a_combined_row_searches_the_hyper_parameters_of_its_parts_and_written_weights(study: Study) -> None:
    cell = study.cells()[0]
    space = study.space("written", cell)
    assert list(space) == ["kd.temperature", "kd.lambda", "weights.kd", "student.width"]
    assert space["kd.temperature"] == Range(2.0, 8.0, log=True)
    assert space["weights.kd"] == Range(0.1, 10.0, log=True)
    fixed = study.fixed("written")
    assert (fixed["fitnet.beta"], fixed["weights.fitnet"]) == (8.0, 2.0)
    assert study.defaults("written", cell)["weights.kd"] == 1.0
    assert not any(name.startswith("weights.") for name in study.space("listed", cell))


def test_the_spec_of_a_combined_row_holds_every_part_with_all_its_values(study: Study) -> None:
    spec = first_spec(study, "written")
    assert spec.method["name"] == "combine"
    assert spec.method["order"] == ["fitnet", "kd"]
    assert spec.method["weights"] == {"fitnet": 2.0, "kd": 1.0}
    assert spec.method["parts"]["fitnet"]["beta"] == 8.0
    assert spec.method["parts"]["kd"]["temperature"] == 4.0
    assert spec.hyper["kd.temperature"] == 4.0 and spec.hyper["weights.fitnet"] == 2.0
    assert spec.row == "written" and spec.teacher is not None


def test_the_order_of_the_parts_is_part_of_the_key(path: Path) -> None:
    one = first_spec(load_study(path), "listed")
    other = first_spec(load_study(path, ["methods.listed.combine=[attention_transfer, kd]"]), "listed")
    assert one.key != other.key


@pytest.mark.parametrize("row", ["kd", "takd", "listed", "written"])
def test_the_values_of_a_trial_are_read_back_from_its_spec(study: Study, row: str) -> None:
    (cell,) = study.cells()
    stream, values = Stream(cell, row, 0), study.defaults(row, cell) | {"student.width": 0.25}
    trials = Trials(study, stream)
    assert trials.values(trials.spec(1, values)) == values


def test_a_field_that_was_added_later_is_in_a_spec_only_off_its_default(path: Path) -> None:
    assert "standardise" not in first_spec(load_study(path), "kd").method
    study = load_study(path, ["methods.kd.standardise=[false, true]", "methods.listed.combine={kd: {standardise: true}, fitnet: null}"])  # fmt: skip  # noqa: E501
    (cell,) = study.cells()
    stream = Stream(cell, "kd", 0)
    for value in (False, True):
        values = study.defaults("kd", cell) | {"standardise": value}
        spec = Trials(study, stream).spec(1, values)
        assert spec.method.get("standardise", "left out") == (True if value else "left out")
        assert Trials(study, stream).values(spec) == values
    assert first_spec(study, "listed").method["parts"]["kd"]["standardise"] is True


def test_no_method_has_a_field_that_a_row_needs_for_itself() -> None:
    for name in methods.names():
        declared = fields_of(methods.get(name))
        assert not set(declared) & set(RESERVED), name
        assert not any("." in field for field in declared), name
    assert not {"student", "shared", "weights", "combine"} & set(methods.names())


def test_the_names_of_schemes_are_no_methods() -> None:
    assert not set(schemes.SCHEMES) & set(methods.names())
    assert "studies/schemes.yaml" in schemes.unknown("TF-KD_self")
    assert schemes.unknown("kdd") == methods.unknown("kdd")


def with_budget(path: Path, student: str) -> Study:
    return load_study(path, [f"student={student}"])


def test_a_budget_of_parameters_makes_the_sizes_one_choice_of_those_that_fit(path: Path) -> None:
    study = with_budget(path, "{model: cnn, depth: [5, 8], width: [0.25, 0.5, 1.0], max_params: 7000}")
    (cell,) = study.cells()
    assert list(cell.space) == ["size"]
    for label in cell.space["size"].values:
        assert parameter_count(cell.config({"size": label}), {"name": "digits"}) <= 7000
    every = [(depth, width) for depth in (5, 8) for width in (0.25, 0.5, 1.0)]
    sizes = [{"name": "cnn", "depth": depth, "width": width} for depth, width in every]
    fitting = [size for size in sizes if parameter_count(size, {"name": "digits"}) <= 7000]
    assert cell.models() == fitting and 1 < len(fitting) < 6
    assert study.space("kd", cell)["student.size"] == cell.space["size"]
    spec = first_spec(study, "kd")
    assert spec.model == fitting[0]
    assert Trials(study, streams(study)[0]).values(spec)["student.size"] == "depth=5 width=0.25"


def test_the_family_s_default_is_tried_first_where_it_fits(path: Path) -> None:
    study = with_budget(path, "{model: cnn, depth: [8, 5], width: [0.5, 1.0], max_params: 1000000}")
    (cell,) = study.cells()
    assert study.defaults("kd", cell)["student.size"] == "depth=5 width=1.0"


def test_a_single_size_that_fits_is_fixed_and_cells_without_one_are_left_out(path: Path) -> None:
    study = with_budget(path, "{model: cnn, depth: 5, width: {each: [0.25, 0.5, 1.0]}, max_params: 7000}")
    assert [cell.label for cell in study.cells()] == ["cnn width=0.25", "cnn width=0.5"]
    (cell,) = with_budget(path, "{model: cnn, depth: 5, width: [0.5, 1.0], max_params: 7000}").cells()
    assert (cell.fixed, cell.space) == ({"depth": 5, "width": 0.5}, {})


def test_without_a_budget_sizes_are_searched_one_by_one(study: Study) -> None:
    (cell,) = study.cells()
    assert cell.space == {"width": Choice((0.5, 0.25))}


def test_parameters_are_those_of_the_network_that_is_built() -> None:
    from kdbench.models import model_from

    model = {"name": "resnet", "depth": 8, "width": 0.5, "shortcut": "A"}
    built = model_from(model).network((3, 32, 32), 10)
    assert parameter_count(model, {"name": "cifar10"}) == sum(p.numel() for p in built.parameters())
    fewer = parameter_count(model, {"name": "cifar10", "classes": [0, 1]})
    assert fewer == parameter_count(model, {"name": "cifar10"}) - 8 * (32 + 1)


def test_a_model_that_cannot_be_counted_is_named(path: Path) -> None:
    with pytest.raises(StudyError, match=r"student.max_params: the parameters cannot be counted: .*no_such_net"):
        with_budget(path, "{model: timm, arch: no_such_net, max_params: 1000}")


def test_a_checkpoint_without_a_hash_cannot_be_planned() -> None:
    values: dict[str, Any] = {
        "study": "toy", "data": {"name": "digits"}, "teacher": {"model": "cnn", "checkpoint": "a.pt"},
        "student": {"model": "cnn"}, "methods": {"kd": {}}, "search": {"trials": 1}, "train": {"epochs": 1, "lr": 0.1},
    }  # fmt: skip
    with pytest.raises(KdbenchError, match="the hash of the checkpoint of 'teacher' is not known"):
        first_spec(Study.model_validate(values), "kd")
