"""What a study asks for, once it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from kdbench.errors import StudyError
from kdbench.fields import Choice, FieldInfo, Range, fields_of, hp, static
from kdbench.record import METRICS, metric
from kdbench.study.check import OBJECTIVES
from kdbench.study.json_schema import json_schema
from kdbench.study.load import load_study
from kdbench.study.schema import SLUG, Study, train_config
from kdbench.study.sections import RangeSetting, Train
from kdbench.study.space import nearest, resolve
from kdbench.study.yaml_source import read_yaml

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
TEXT = """
study: small
data: {name: digits, validation: 180}
source: {data: {name: digits, rotate: 90}, epochs: 3}
teacher: {model: cnn, depth: 8, lr: 0.2, time_limit_s: null}
student: {model: cnn, depth: {each: [5, 8]}, width: [0.5, 0.25]}
methods:
  kd: {temperature: 6, ce_weight: [0.1, 1.0]}
  scratch:
  attention_transfer: {beta: {low: 1, high: 100}}
  l2sp:
search: {trials: 3, shared: {weight_decay: [0.0001, 0.002], lr: {low: 0.2, high: 0.4, log: true}}}
train: {epochs: 5, lr: 0.1, time_limit_s: 60}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def study(study_file: Path) -> Study:
    return load_study(study_file)


def test_each_gives_a_cell_for_every_listed_size(study: Study) -> None:
    first, second = study.cells()
    assert (first.label, second.label) == ("cnn depth=5", "cnn depth=8")
    assert first.fixed == {"depth": 5}
    assert second.space == {"width": Choice((0.5, 0.25))}
    assert second.config({"width": 0.25}) == {"name": "cnn", "depth": 8, "width": 0.25}


def test_a_student_without_each_is_one_cell_with_its_defaults_filled_in(study_file: Path) -> None:
    (cell,) = load_study(study_file, ["student={model: resnet, depth: [8, 14], width: [0.5]}"]).cells()
    assert cell.label == "resnet"
    assert cell.fixed == {"width": 0.5, "shortcut": "projection"}  # a list of one value is not searched
    assert cell.space == {"depth": Choice((8, 14))}


def test_the_space_holds_hyper_parameters_then_sizes_then_shared_settings(study: Study) -> None:
    cell = study.cells()[0]
    space = study.space("kd", cell)
    assert list(space) == ["lambda", "ce_weight", "student.width", "shared.lr", "shared.weight_decay"]
    assert space["lambda"] == Range(0.1, 10, log=True)  # as declared by the method
    assert space["ce_weight"] == Choice((0.1, 1.0))
    assert space["shared.lr"] == Range(0.2, 0.4, log=True)


def test_a_narrowed_range_keeps_the_declared_scale(study: Study) -> None:
    assert study.space("attention_transfer", study.cells()[0])["beta"] == Range(1.0, 100.0, log=True)


def test_what_a_method_fixes_by_definition_is_not_searched(study: Study) -> None:
    cell = study.cells()[0]
    assert "shared.weight_decay" in study.space("scratch", cell)
    assert "shared.weight_decay" not in study.space("l2sp", cell)


def test_fixed_hyper_parameters_include_defaults(study: Study) -> None:
    assert study.fixed("kd") == {"temperature": 6.0, "standardise": False}
    assert study.fixed("attention_transfer") == {"form": "code", "power": 2}
    assert study.fixed("scratch") == {}


def test_defaults_cover_exactly_the_space_and_lie_within_it(study: Study) -> None:
    cell = study.cells()[0]
    assert study.defaults("kd", cell) == {
        "lambda": 0.9,
        "ce_weight": 0.1,
        "student.width": 0.5,  # the family's default 1.0 is not listed, so the first
        "shared.lr": 0.2,  # train.lr 0.1, moved into the range
        "shared.weight_decay": 0.0001,  # the listed value that is nearest to train.weight_decay, 5e-4
    }
    assert study.defaults("attention_transfer", cell)["beta"] == 100.0  # published 1000, cut at the study's range
    for method in study.methods:
        assert list(study.defaults(method, cell)) == list(study.space(method, cell))


def test_methods_keep_the_order_of_the_file(study: Study) -> None:
    assert list(study.methods) == ["kd", "scratch", "attention_transfer", "l2sp"]


def test_the_teacher_overrides_only_what_it_names(study: Study) -> None:
    assert study.teacher is not None and study.source is not None
    assert study.teacher.overrides() == {"lr": 0.2, "time_limit_s": None}
    assert study.teacher.model_config_dict() == {"name": "cnn", "depth": 8, "width": 1.0}
    config = train_config(study.train, study.teacher.overrides())
    assert (config["lr"], config["epochs"], config["time_limit_s"]) == (0.2, 5, None)
    assert train_config(study.train, study.source.overrides())["epochs"] == 3
    assert train_config(study.train, {})["milestones"] == []
    assert list(config) == list(Train.model_fields)


def test_a_study_reads_back_from_its_json(study: Study) -> None:
    again = Study.model_validate(json.loads(json.dumps(study.to_json())))
    assert again == study
    assert again.to_json() == study.to_json()


def test_a_study_never_changes(study: Study) -> None:
    with pytest.raises(ValidationError):
        study.train.epochs = 7  # type: ignore[misc]


def info(name: str) -> FieldInfo:
    @dataclass(frozen=True)
    class Example:
        layers: int = hp(4, low=2, high=10, step=2)
        rate: float = hp(0.1, low=0.01, high=1, log=True)
        form: str = static("a", allowed=("a", "b", "c"))

    return fields_of(Example)[name]


def test_ranges_of_whole_numbers_stay_whole() -> None:
    narrowed = resolve(info("layers"), RangeSetting(low=4, high=8))
    assert narrowed == Range(4, 8, step=2, integer=True)
    assert nearest(7, narrowed) == 8 and isinstance(nearest(7, narrowed), int)


def test_a_written_step_turns_a_declared_log_scale_off() -> None:
    assert resolve(info("rate"), RangeSetting(low=0.1, high=0.5, step=0.1)) == Range(0.1, 0.5, step=0.1)
    assert resolve(info("rate"), RangeSetting(low=0.1, high=0.5, log=False)) == Range(0.1, 0.5)


def test_the_nearest_word_is_the_default_or_the_first() -> None:
    assert nearest("b", Choice(("a", "b"))) == "b"
    assert nearest("c", Choice(("a", "b"))) == "a"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_shipped_studies_load_and_fit_the_json_schema(path: Path) -> None:
    study = load_study(path)
    assert study.study == path.stem
    validator = jsonschema.Draft202012Validator(json_schema())  # whose schema is checked below
    validator.validate(read_yaml(path.read_text(), path.name).root)
    validator.validate(study.to_json())


def test_the_headline_study_asks_what_it_promises() -> None:
    study = load_study(next(path for path in STUDIES if path.name == "cifar10.yaml"))
    assert len(study.methods) == 10
    assert (study.search.trials, study.search.repeats, study.final.seeds) == (20, 3, 5)
    (cell,) = study.cells()
    assert cell.space == {"depth": Choice((8, 14, 20)), "width": Choice((0.5, 1.0))}


def test_the_json_schema_is_valid_and_describes_every_field() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    sections = [schema, *schema["$defs"].values()]
    for section in sections:
        for alternative in section.get("anyOf", [section]):
            for name, node in alternative.get("properties", {}).items():
                assert node.get("description"), name


def test_objectives_are_metrics_with_a_direction() -> None:
    assert all(metric(name).direction in ("max", "min") for name in OBJECTIVES)
    assert {name.removeprefix("val_") for name in OBJECTIVES} < set(METRICS)


def test_a_study_name_cannot_leave_its_folder() -> None:
    import re

    assert re.match(SLUG, "cifar10-cpu_v1.2")
    for name in ("", ".", "..", "a/b", "a\\b", "-x", "a b", "a\n", "x" * 101, "ä"):
        assert not re.fullmatch(SLUG, name), name


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.epochs=2", lambda s: s.train.epochs == 2),
        ("train.weight_decay=5e-4", lambda s: s.train.weight_decay == 5e-4),
        ("methods.kd.temperature=4", lambda s: s.fixed("kd")["temperature"] == 4.0),
        ("methods.scratch={}", lambda s: s.methods["scratch"].settings == {}),
        ("methods.label_smoothing=null", lambda s: list(s.methods)[-1] == "label_smoothing"),
        ("methods.fitnet.beta=3", lambda s: s.fixed("fitnet")["beta"] == 3.0),
        ("methods={scratch: null}", lambda s: list(s.methods) == ["scratch"]),
        ("methods.kd.lambda={low: 1, high: 4}", lambda s: s.space("kd", s.cells()[0])["lambda"] == Range(1, 4, True)),
        ("student.depth=[5, 8]", lambda s: s.cells()[0].space["depth"] == Choice((5, 8))),
        ("final.seeds = 2", lambda s: s.final.seeds == 2),
        ("question=Why = how?", lambda s: s.question == "Why = how?"),
        ("track.mlflow=sqlite:///x.db", lambda s: s.track.mlflow == "sqlite:///x.db"),
    ],
)
def test_an_override_replaces_a_field(study_file: Path, override: str, read: object) -> None:
    assert callable(read)
    assert read(load_study(study_file, [override]))


def test_the_last_override_of_a_field_wins(study_file: Path) -> None:
    assert load_study(study_file, ["train.epochs=2", "train.epochs=3"]).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=2", "train.epoch: unknown field of 'train'. Did you mean 'epochs'?"),
        ("train.epochs=two", "train.epochs: got 'two'. Allowed: a whole number of at least 1."),
        ("methods.kd.temprature=2", "methods.kd.temprature: unknown field of 'kd'. Did you mean 'temperature'?"),
        ("methods.kdd=null", "methods.kdd: unknown method 'kdd'. Did you mean 'kd'?"),
        ("train.epochs.first=2", "train.epochs has no fields. Set train.epochs itself."),
        ("train.epochs", "write FIELD=VALUE, such as train.epochs=2."),
        ("train..epochs=2", "write FIELD=VALUE, such as train.epochs=2."),
        ("train={", "not valid YAML: while parsing a flow node: expected the node content"),
        ("methods.kd={lambda: 1, lambda: 2}", "methods.kd.lambda: written twice (in the same mapping)."),
        ("train.lr=.nan", "train.lr: got .nan. Allowed: finite numbers."),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(study_file: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(study_file, [override])
    (problem,) = caught.value.problems
    assert problem.startswith(f"--set '{override}': {message}")


def test_mistakes_of_the_file_come_before_those_of_overrides(study_file: Path) -> None:
    study_file.write_text(TEXT.replace("trials: 3", "trials: 0"))
    with pytest.raises(StudyError) as caught:
        load_study(study_file, ["train.lr=0", "train.epochs=0"])
    assert [p.rsplit(": got", 1)[0] for p in caught.value.problems] == [
        f"{study_file}:12:18: search.trials",
        "--set 'train.lr=0': train.lr",
        "--set 'train.epochs=0': train.epochs",
    ]


def test_validation_answers_without_torch_and_its_friends() -> None:
    heavy = ("torch", "numpy", "pandas", "optuna", "ray", "mlflow", "sklearn", "scipy")
    digits = next(path for path in STUDIES if path.name == "digits.yaml")  # an .npz in the data root would take numpy
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from kdbench.study.load import load_study\n"
        "from kdbench.study.json_schema import json_schema\n"
        f"load_study({str(digits)!r}); json_schema()\n"
        f"print([m for m in {heavy} if m in sys.modules], time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded, seconds = done.stdout.rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 5  # 0.4 s where nothing else runs


@pytest.mark.parametrize(
    ("value", "low", "high", "step", "expected"),
    [(4, 1, 4, 2, 3), (4, 1, 5, 2, 5), (2.4, 0.0, 1.0, 0.3, 0.9), (0.5, 1.0, 2.0, 0.5, 1.0), (0.1, 0.0, 0.3, 0.1, 0.1)],
)
def test_a_default_is_moved_onto_the_steps_of_a_range(
    value: float, low: float, high: float, step: float, expected: float
) -> None:
    space = Range(low, high, step=step, integer=isinstance(low, int))
    assert nearest(value, space) == pytest.approx(expected)
