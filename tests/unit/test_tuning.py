"""Which engine a training gets, that it keeps it, and that fused optimisers give what the others give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from kdbench.errors import KdbenchError
from kdbench.record import Job
from kdbench.session import run_study
from kdbench.testing.training import Bench, assert_same, job_for
from kdbench.train import checkpoint, tuning
from kdbench.train.engine import ALLOWED, ENVIRONMENT, Engine, before_engines, override
from kdbench.train.recipe import Recipe
from kdbench.train.run import Run
from kdbench.train.tuning import Choice, candidates, choice_for, engine_of, kept

SCRATCH = {"name": "scratch"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("study"))


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Iterator[dict[str, float]]:
    """Seconds of a step by memory format; every training is worth a measurement, and none has been made."""
    ms = {"channels_last": 10.0, "contiguous": 10.0}
    monkeypatch.setattr(tuning, "WORTH", 0)
    monkeypatch.setattr(tuning, "stepper", lambda spec, recipe, shop, engine: engine)
    monkeypatch.setattr(tuning, "duel", lambda one, other: (ms[one.memory_format], ms[other.memory_format]))
    yield ms
    for path in (bench.store.folder / "work").glob("engine-*.json"):
        path.unlink()


def choice(bench: Bench, job: Job | None = None, at: str = "none") -> Choice:
    job = job or job_for(SCRATCH)
    return choice_for(job.spec, Recipe.from_json(job.spec.train), bench.shop(), bench.store.folder / at)


def test_a_short_training_takes_the_default_and_measures_nothing(bench: Bench) -> None:
    assert choice(bench) == Choice(Engine(), "default", {})
    assert not list((bench.store.folder / "work").glob("engine-*"))


@pytest.mark.parametrize(
    ("contiguous_ms", "wins"),
    [(9.2, "channels_last"), (9.0, "contiguous"), (12.0, "channels_last")],  # by less than a tenth it does not
)
def test_the_default_loses_only_to_what_is_clearly_faster(
    bench: Bench, rigged: dict[str, float], contiguous_ms: float, wins: str
) -> None:
    rigged["contiguous"] = contiguous_ms
    found = choice(bench)
    assert (found.engine.memory_format, found.engine.optimizer, found.origin) == (wins, "fused", "measured")
    assert found.step_ms["default"] == 10.0 and found.step_ms["memory_format=contiguous"] == contiguous_ms


def test_all_methods_and_all_workers_go_by_one_measurement(bench: Bench, rigged: dict[str, float]) -> None:
    rigged["contiguous"] = 5.0
    first = choice(bench, job_for({"name": "kd"}))
    rigged["contiguous"] = 20.0
    assert choice(bench, job_for(SCRATCH, seed=9)) == first
    other = replace(job_for(SCRATCH).spec, train={**job_for(SCRATCH).spec.train, "batch_size": 32})
    assert choice(bench, Job(other)).engine.memory_format == "channels_last"  # another question


def test_of_two_workers_that_measure_at_once_both_go_by_the_first_one_to_file(
    bench: Bench, rigged: dict[str, float]
) -> None:
    job = job_for(SCRATCH)
    recipe, shop = Recipe.from_json(job.spec.train), bench.shop()

    def slower() -> Choice:
        kept(job.spec, recipe, shop, Engine(), lambda: Choice(Engine(), "measured", {"default": 1.0}))
        return Choice(Engine(memory_format="contiguous"), "measured", {"default": 2.0})

    assert kept(job.spec, recipe, shop, Engine(), slower).step_ms == {"default": 1.0}


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "fp64"}'])
def test_a_damaged_file_of_a_choice_is_measured_again(bench: Bench, rigged: dict[str, float], content: str) -> None:
    choice(bench)
    (path,) = (bench.store.folder / "work").glob("engine-*.json")
    path.write_text(content)
    assert choice(bench).origin == "measured" and json.loads(path.read_text())["precision"] == "fp32"


def test_real_steps_are_measured_and_leave_the_random_state_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "STEPS", 2)
    before = torch.get_rng_state()
    job = job_for(SCRATCH)
    rivals = [{"memory_format": "contiguous"}, {"optimizer": "foreach"}]
    found = tuning.measured(job.spec, Recipe.from_json(job.spec.train), bench.warm, Engine(), rivals)
    assert list(found.step_ms) == ["default", "memory_format=contiguous", "optimizer=foreach"]
    assert all(value > 0 for value in found.step_ms.values())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("has", "asked", "tried"), [
    (False, "auto", False), (True, "auto", True), (True, "fp32", False), (True, "bf16", False)
])  # fmt: skip
def test_precision_is_measured_only_where_it_is_left_open_and_there_are_bf16_units(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, has: bool, asked: str, tried: bool
) -> None:
    monkeypatch.setattr("kdbench.train.recipe.cpu_has_bf16", lambda: has)
    default = Engine("bf16" if has and asked != "fp32" else "fp32")
    found = candidates(default, Recipe(precision=asked), bench.warm)
    assert ({"precision": "fp32"} in found) == tried
    assert not any(change.get("precision") == "bf16" for change in found)


def test_what_the_environment_asks_for_is_taken_unmeasured(
    bench: Bench, rigged: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "memory_format=contiguous, optimizer=foreach")
    wanted = Engine(memory_format="contiguous", optimizer="foreach")
    assert choice(bench) == Choice(wanted, "asked", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory_fromat=contiguous", "Did you mean 'memory_format'"),
        ("precision=bf16", "train.precision"),
        ("optimizer=quick", "optimizer is fused, foreach, but got 'quick'"),
        ("optimizer", "but got ''"),
    ],
)
def test_an_engine_that_there_is_not_is_an_error(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, text)
    with pytest.raises(KdbenchError, match=said):
        override()


def test_a_run_refuses_an_engine_that_there_is_not_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "step=quick")
    with pytest.raises(KdbenchError, match="the engine's step is eager, graph, but got 'quick'"):
        run_study(cast(Any, None), "", tmp_path / "study", None, "end", Console(), False)
    assert not (tmp_path / "study").exists()


def test_a_training_goes_on_with_the_engine_of_its_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for({"name": "fitnet"}, seed=21)
    monkeypatch.setenv(ENVIRONMENT, "memory_format=contiguous,batch_norm=apart,optimizer=foreach")
    whole = bench.train(job, bench.warm)
    bench.begin(job, 2)
    monkeypatch.setenv(ENVIRONMENT, "memory_format=channels_last")
    again = bench.train(job)
    assert_same(again, whole, "gone on under another setting")
    engine = again.record.environment["engine"]
    assert engine == whole.record.environment["engine"]
    assert (engine["memory_format"], engine["origin"]) == ("contiguous", "asked")
    assert again.record.spec.key == job.spec.key and "engine" not in json.dumps(again.record.spec.to_json())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_a_version_without_engines_goes_on_as_it_was_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    job = job_for({"name": "fitnet"}, seed=22, optimizer=optimizer)
    monkeypatch.setenv(ENVIRONMENT, "batch_norm=apart,optimizer=foreach")
    whole = bench.train(job, bench.warm)
    path = bench.begin(job, 1)
    monkeypatch.delenv(ENVIRONMENT)
    tensors, facts = checkpoint.load(path)
    del facts["engine"]
    checkpoint.save(path, tensors, facts)
    assert Run(job, bench.shop()).choice == Choice(before_engines("fp32"), "checkpoint", {})
    assert_same(bench.train(job), whole, "begun by an older version")


def test_a_damaged_checkpoint_does_not_decide(bench: Bench) -> None:
    (bench.store.folder / "torn").write_bytes(b"x" * 100)
    assert choice(bench, at="torn").origin == "default"


def test_a_record_is_reproduced_with_its_engine_on_the_same_kind_of_device(bench: Bench) -> None:
    record = bench.train(job_for(SCRATCH, seed=23)).record
    assert engine_of(record, CPU) == record.environment["engine"] == Choice(Engine(), "default", {}).facts()
    assert engine_of(record, torch.device("cuda")) is None
    old = {k: v for k, v in record.environment.items() if k != "engine"}
    facts = engine_of(replace(record, environment=old), CPU)
    assert facts is not None and Choice.from_facts(facts) == Choice(before_engines("fp32"), "record", {})
    shop = bench.shop()
    shop.engine = facts
    job = job_for(SCRATCH, seed=25)
    assert Run(job, shop).engine == before_engines("fp32")


def test_every_engine_has_a_number_of_its_own() -> None:
    for name, values in ALLOWED.items():
        for value in values:
            engine = replace(Engine(), **{name: value})
            assert Engine.numbered(engine.number) == engine and Engine.from_json(engine.to_json()) == engine


def steps_of(recipe: Recipe, implementation: str, resumed: bool = False) -> Mapping[str, Tensor]:
    """Weights of a small channels_last network after four steps on noise; resumed: through a checkpoint after two."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 3), nn.Flatten(), nn.Linear(28, 3)]
        net: Any = nn.Sequential(*layers)
    net = net.to(memory_format=torch.channels_last)
    optimizer = recipe.build_optimizer({1.0: list(net.parameters())}, {}, implementation)
    for number in range(4):
        if resumed and number == 2:
            rows = {k: v.contiguous() for k, v in checkpoint.optimizer_tensors(optimizer, "o.").items()}  # as in a file
            optimizer = recipe.build_optimizer({1.0: list(net.parameters())}, {}, implementation)
            checkpoint.load_optimizer(optimizer, rows, "o.")
        images = torch.randn(4, 3, 6, 6, generator=generator).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    return dict(net.state_dict())


RECIPES = [Recipe(lr=0.1), Recipe(lr=0.1, nesterov=True), Recipe(optimizer="adamw", lr=0.01)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_fused_updates_are_those_of_foreach_to_rounding(recipe: Recipe) -> None:
    one, other = steps_of(recipe, "fused"), steps_of(recipe, "foreach")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_what_a_file_says_of_an_optimiser_goes_on_bit_equal(recipe: Recipe, implementation: str) -> None:
    """Fused kernels read momenta in the order of memory, which is not that of a file."""
    one, other = steps_of(recipe, implementation), steps_of(recipe, implementation, resumed=True)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_only_dense_floating_parameters_are_updated_by_fused_kernels() -> None:
    def is_fused(parameter: Tensor) -> bool:
        optimizer = Recipe().build_optimizer({1.0: [parameter.requires_grad_()]}, {})
        return bool(optimizer.param_groups[0]["fused"])

    assert is_fused(torch.zeros(2, 3)) and is_fused(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    assert not is_fused(torch.zeros(4, 6)[:, ::2]) and not is_fused(torch.zeros(3, dtype=torch.complex64))


@pytest.mark.parametrize(("width", "trained_in"), [(0.5, "contiguous"), (1.0, "channels_last")])
def test_a_convolution_that_breaks_in_channels_last_on_a_cpu_is_never_trained_in_it(
    bench: Bench, width: float, trained_in: str
) -> None:
    """At width 1 the projections of a resnet have 16 input channels and more."""
    spec = replace(job_for(SCRATCH, seed=24, epochs=1).spec, model={"name": "resnet", "depth": 8, "width": width})
    run = Run(Job(spec), bench.shop())
    run.advance()
    assert run.training.engine.memory_format == trained_in
    assert run.record().environment["engine"]["memory_format"] == trained_in
    weight = run.training.student.get_parameter("stage2.0.conv1.weight")
    assert weight.is_contiguous(memory_format=tuning_format(trained_in))
    assert Engine().sound_for([run.training.student], torch.device("cuda")) == Engine()


def tuning_format(name: str) -> torch.memory_format:
    return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[name]
