"""Whatever stands in a study file, loading it ends in a Study or in a StudyError."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.errors import StudyError
from kdbench.fields import Choice, Range
from kdbench.study.load import load_study
from kdbench.study.schema import Study
from kdbench.study.space import nearest

BASE = """
study: small
data: {name: digits, validation: 180}
teacher: {model: cnn}
student: {model: cnn, width: [0.5, 1.0]}
methods: {scratch: , kd: {temperature: {low: 1, high: 10}}, fitnet: {layer: stage1}}
search: {trials: 3, shared: {lr: [0.1, 0.2]}}
train: {epochs: 5, lr: 0.1}
"""
WORDS = (
    "study", "data", "name", "digits", "teacher", "student", "model", "cnn", "depth", "width", "each", "methods", "kd",
    "temperature", "lambda", "low", "high", "log", "step", "search", "trials", "shared", "lr", "train", "epochs",
    "milestones", "schedule", "objectives", "reference", "pareto", "source", "finetune", "classes", "auto", "",
)  # fmt: skip
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=5)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
fragments = st.sampled_from(
    (*WORDS, ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "? ", "|\n", ">", "'", '"', "#",
     "\t", "---\n", "%YAML 1.2\n", "<<", "\\U", "\ufeff", "\x85", "\x00", "\ud800", "0x1", "1e999", ".nan", "9" * 20)
)  # fmt: skip


def outcome(text: str, overrides: list[str] | None = None) -> Study | StudyError:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            return load_study(path, overrides or [])
        except StudyError as error:
            assert error.problems
            assert all("\n" not in problem for problem in error.problems)
            assert len(set(error.problems)) == len(error.problems)
            return error


@given(st.lists(fragments, max_size=30).map("".join))
@SETTINGS
def test_random_pieces_of_yaml_never_raise_anything_else(text: str) -> None:
    assert isinstance(outcome(text), StudyError)


@given(st.binary(max_size=60))
@SETTINGS
def test_random_bytes_never_raise_anything_else(raw: bytes) -> None:
    assert isinstance(outcome(raw.decode("latin-1")), StudyError)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(p for key, item in value.items() for p in paths(item, (*path, key)))]
    return [path]


@given(st.data())
@SETTINGS
def test_a_good_study_with_one_value_replaced_is_read_or_refused(data: st.DataObject) -> None:
    document = yaml.safe_load(BASE)
    path = data.draw(st.sampled_from([p for p in paths(document) if p]))
    here = document
    for part in path[:-1]:
        here = here[part]
    here[data.draw(st.sampled_from([path[-1], *WORDS]))] = data.draw(values)
    result = outcome(yaml.safe_dump(document, allow_unicode=True))
    if isinstance(result, Study):
        assert Study.model_validate(result.to_json()) == result
        for cell in result.cells():
            for method in result.methods:
                space, defaults = result.space(method, cell), result.defaults(method, cell)
                assert list(space) == list(defaults)
                assert not set(space) & set(result.fixed(method))


@given(st.text(max_size=20), st.lists(fragments, max_size=8).map("".join))
@SETTINGS
def test_random_overrides_never_raise_anything_else(name: str, value: str) -> None:
    outcome(BASE, [f"{name}={value}", f"train.{value}", f"train.epochs={value}", f"methods.kd.temperature={value}"])


@given(
    st.floats(-1e6, 1e6),
    st.integers(-1000, 1000),
    st.integers(1, 1000),
    st.sampled_from([None, 1, 2, 5]),
    st.booleans(),
)
def test_the_nearest_value_of_a_range_lies_within_it_and_on_a_step(
    value: float, low: int, steps: int, step: int | None, integer: bool
) -> None:
    space = Range(low, low + steps * (step or 1), step=step, integer=integer)
    found = nearest(value, space)
    assert space.low <= found <= space.high
    if step is not None:
        assert (found - low) % step == 0
    if space.low <= value <= space.high:
        assert abs(found - value) <= (step or 1) / 2 + 1e-9


@given(st.floats(-1e6, 1e6), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True))
def test_the_nearest_value_of_a_choice_is_none_of_the_farther_ones(value: float, values: list[float]) -> None:
    found = nearest(value, Choice(tuple(values)))
    assert found in values
    assert all(abs(found - value) <= abs(other - value) for other in values)
