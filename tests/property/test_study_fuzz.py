"""Whatever stands in a study file or in a record, reading it ends in a value or in a message.

`python benchmarks/fuzz.py` gives the same readers thousands of inputs; results/reliability/fuzz.md has its counts.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
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


def load_fuzz() -> ModuleType:
    """benchmarks/fuzz.py as a module."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("kdbench_fuzz", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzz()
TARGETS = fuzz.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_accepted_or_refused_with_a_message(name: str) -> None:
    strategy, read = TARGETS[name]
    count = fuzz.fuzz(strategy, read, 40, seed=20261121)
    assert count.failures == []
    assert count.accepted + count.refused >= 30, "hypothesis stops early where it knows all inputs"


def raises(error: BaseException) -> Any:
    def read(_: bytes) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (raises(ValueError("boom")), "ValueError: boom"),
        (raises(RecursionError("deep")), "RecursionError: deep"),
        (raises(SystemExit(3)), "SystemExit: 3"),
        (raises(AssertionError("lossy")), "AssertionError: lossy"),
        (raises(StudyError(["x: one\x1b[31m"])), "control characters"),
        (raises(StudyError(["x: one\ntwo"])), "several lines"),
        (raises(StudyError([""])), "a message of"),
        (lambda _: time.sleep(60), "TimeoutError: more than 0.2 s"),
    ],
)
def test_the_fuzzer_notices_what_must_not_happen(read: Any, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "TIME_LIMIT_S", 0.2)
    count = fuzz.Count()
    fuzz.judge(read, b"input", count)
    assert (
        (count.accepted, count.refused) == (0, 0) and failure in count.failures[0] and "b'input'" in count.failures[0]
    )


def test_the_fuzzer_counts_what_may_happen() -> None:
    count = fuzz.Count()
    fuzz.judge(lambda _: None, b"", count)
    fuzz.judge(raises(StudyError(["x.yaml:1:1: wrong."])), b"", count)
    assert (count.accepted, count.refused, count.failures) == (1, 1, [])
