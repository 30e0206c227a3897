"""Every registered method in the real trainer, on real digits: it moves what it should, and a death costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, Setup, Step, hp, methods
from kdbench.testing import variants
from kdbench.testing.training import (
    TEACHER,
    Bench,
    Trained,
    assert_same,
    check_resume_equals_uninterrupted,
    check_teacher_stays,
    check_trained_parts_move,
    check_training,
    config_of,
    job_for,
)
from kdbench.train.view_cache import weights_hash

CONFIGS = {
    name: config_of(method) for cls in map(methods.get, methods.names()) for name, method in variants(cls).items()
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@dataclass(frozen=True)
class Everything(Method):
    """Uses all that the contract offers: a peer, a trained module, a state that moves, random draws."""

    weight: float = hp(0.1)

    reads = ("logits",)
    trained = ("student", "peer")

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"embed": nn.Sequential(nn.Linear(setup.student["pooled"][0], 8), nn.BatchNorm1d(8), nn.Dropout(0.2))}

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        return {"bank": torch.randn(len(setup.training_labels), 8), "steps": torch.zeros((), dtype=torch.int64)}

    def sample(self, index: Tensor, setup: Setup, generator: Generator) -> dict[str, Tensor]:
        return {"negatives": torch.randint(len(setup.training_labels), (len(index), 4), generator=generator)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        own = s.aux["embed"](s.student.pooled)
        near = torch.einsum("bd,bkd->bk", own, s.state["bank"][s.draw["negatives"]])
        peers = (s.student.logits - s.nets["peer"].logits).square().mean()
        return {
            "ce": cross_entropy(s.student.logits, s.labels) + cross_entropy(s.nets["peer"].logits, s.labels),
            "kd": self.weight * (s.student.logits - s.target.logits).square().mean() * (1 + s.progress),
            "bank": self.weight * near.square().mean() / (1 + s.state["steps"]),
            "peer": self.weight * peers,
        }

    def update(self, s: Step) -> dict[str, Tensor]:
        own = nn.functional.normalize(s.aux["embed"][0](s.student.pooled))
        return {"bank": s.state["bank"].index_copy(0, s.index, own), "steps": s.state["steps"] + 1}


class Forgetful(nn.Linear):
    """A module with something that is not in its state dict, which no checkpoint can bring back."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1)
        self.calls = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(batch) * self.calls


@dataclass(frozen=True)
class KeepsASecret(Method):
    """Breaks the contract: its state lives where the trainer cannot see it."""

    reads = ()
    frozen = ()

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"secret": Forgetful(setup.student["pooled"][0])}

    def loss(self, s: Step) -> dict[str, Tensor]:
        ce = cross_entropy(s.student.logits, s.labels)
        return {"ce": ce, "secret": s.aux["secret"](s.student.pooled).square().mean()}


@dataclass(frozen=True)
class LeavesAPartOut(Method):
    """Builds a layer that its loss does not use."""

    reads = ()
    frozen = ()

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"unused": nn.Linear(2, 2)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": cross_entropy(s.student.logits, s.labels)}


@dataclass(frozen=True)
class HarmsTheTeacher(Method):
    """Writes into what the teacher hands out."""

    reads = ("features",)

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": cross_entropy(s.student.logits, s.labels)}


OWN: dict[str, type[Method]] = {
    "everything": Everything,
    "keeps_a_secret": KeepsASecret,
    "leaves_a_part_out": LeavesAPartOut,
    "harms_the_teacher": HarmsTheTeacher,
}


@pytest.fixture(autouse=True, scope="module")
def own_methods() -> Iterator[None]:
    """The methods of this file, registered while its tests run."""
    for name, cls in OWN.items():
        methods(name)(cls)
    yield
    for name in OWN:
        del methods._entries[name]


RESUMED = [(name, "sgd") for name in [*methods.names(), "everything"]]
RESUMED += [(name, "adamw") for name in ("kd", "crd", "finetune", "everything")]  # what the optimiser keeps is its own


@pytest.mark.parametrize(("method", "optimizer"), RESUMED)
def test_a_training_that_died_ends_as_if_it_had_not(bench: Bench, method: str, optimizer: str) -> None:
    check_resume_equals_uninterrupted(bench, CONFIGS.get(method, {"name": method}), optimizer=optimizer)


def test_resume_with_momentum_warm_up_clipping_and_steps_is_bit_equal_too(bench: Bench) -> None:
    settings = {"nesterov": True, "warmup_epochs": 1.0, "clip_norm": 0.5, "schedule": "step", "milestones": [2]}
    check_resume_equals_uninterrupted(bench, {"name": "everything"}, **settings)


@pytest.mark.parametrize("method", [*CONFIGS, "everything"])
def test_what_trains_moves_and_what_is_frozen_stays(bench: Bench, method: str) -> None:
    check_trained_parts_move(bench, CONFIGS.get(method, {"name": method}))


@pytest.mark.parametrize("method", [name for name in methods.names() if methods.get(name).frozen])
def test_the_teacher_is_bit_identical_after_training(bench: Bench, method: str) -> None:
    check_teacher_stays(bench, CONFIGS[method])


@pytest.mark.slow
def test_every_method_gives_the_same_in_a_fresh_process(bench: Bench) -> None:
    code = """
import json, sys
from pathlib import Path
from kdbench.testing.training import Bench, job_for
from kdbench.train.view_cache import weights_hash
bench, configs = Bench(Path(sys.argv[1])), json.loads(sys.argv[2])
trained = {name: bench.train(job_for(config)) for name, config in configs.items()}
print(json.dumps({name: [weights_hash(t.weights), t.record.to_json()] for name, t in trained.items()}))
"""
    arguments = [sys.executable, "-c", code, str(bench.store.folder), json.dumps(CONFIGS)]
    fresh = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    for name, config in CONFIGS.items():
        own = bench.train(job_for(config), bench.warm)
        assert fresh[name][0] == weights_hash(own.weights), name
        assert timeless_record(fresh[name][1]) == timeless_record(json.loads(json.dumps(own.record.to_json()))), name


def timeless_record(record: dict[str, Any]) -> dict[str, Any]:
    out = {**record, "curves": dict(record["curves"]), "result": dict(record["result"])}
    for name in ("started", "ended", "wall_s"):
        del out[name]
    del out["curves"]["epoch_wall_s"], out["result"]["train_wall_s"], out["result"]["train_device_s"]
    out["environment"] = {name: value for name, value in out["environment"].items() if name != "git"}
    return out


def test_a_plug_in_can_run_all_checks_at_once(tmp_path: Path) -> None:
    check_training(methods.get("everything"), tmp_path)


def test_a_secret_state_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"keeps_a_secret: sgd, died after epoch 1: .* differs"):
        check_training(methods.get("keeps_a_secret"), tmp_path)


def test_a_part_that_does_not_learn_is_noticed(bench: Bench) -> None:
    with pytest.raises(AssertionError, match=r"aux.unused.weight: has it moved in an epoch\? False"):
        check_trained_parts_move(bench, {"name": "leaves_a_part_out"})


def test_a_teacher_that_is_changed_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.train.teachers import LiveTeacher

    run = LiveTeacher.__call__

    def learning(self: LiveTeacher, *arguments: Any) -> Any:
        self.net.train()  # what peers forget: batch norm goes on counting
        return run(self, *arguments)

    monkeypatch.setattr(LiveTeacher, "__call__", learning)
    with pytest.raises(AssertionError, match="changed the weights of the teacher, the mode of the teacher"):
        check_teacher_stays(bench, {"name": "harms_the_teacher"})


def test_another_seed_gives_another_training(bench: Bench) -> None:
    one, other = bench.train(job_for({"name": "kd"})), bench.train(job_for({"name": "kd"}, seed=8))
    with pytest.raises(AssertionError, match="differs"):
        assert_same(one, other, "seeds 7 and 8")


def test_equal_trainings_in_one_process_are_equal(bench: Bench) -> None:
    shop = bench.shop()
    first: Trained = bench.train(job_for({"name": "kd"}), shop)
    bench.train(job_for({"name": "fitnet"}), shop)  # what a worker did before must not matter
    assert_same(bench.train(job_for({"name": "kd"}), shop), first, "the same worker again")


def test_the_teacher_of_the_bench_is_a_teacher(bench: Bench) -> None:
    assert bench.store.read(TEACHER.key).status == "finished"
