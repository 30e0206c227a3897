"""The step as a graph: here a graph is the recorded function itself, so a CPU shows that its buffers are complete."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, Setup, Step
from kdbench.nets.base import Network
from kdbench.nets.cnn import CNN
from kdbench.train.engine import Engine
from kdbench.train.graphs import WARM_UP, Buffers, GraphedStep, HostReads, Terms, close
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.teachers import LiveTeacher

CPU = torch.device("cpu")
N, BATCH = 30, 4  # seven full batches in an epoch, and one of two samples


class Recorder:
    """Records as CUDA does: at the recording nothing runs, and every replay leaves its terms in the same place."""

    def __init__(self) -> None:
        self.recorded = self.replays = 0

    def __call__(self, body: Callable[[], Terms]) -> tuple[Callable[[], object], Terms]:
        self.recorded += 1
        terms: Terms = {}

        def replay() -> None:
            self.replays += 1
            terms.update(body())

        return replay, terms


def network(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CNN((1, 8, 8), 4, 5, 0.25)


def training(method: Method, engine: Engine | None = None, **recipe: Any) -> Training:
    images = torch.randint(256, (N, 8, 8, 1), dtype=torch.uint8, generator=Generator().manual_seed(0))
    labels = torch.arange(N) % 4
    teacher = network(1).eval().requires_grad_(False)
    frozen = {role: net for role, net in {"teacher": teacher, "source": network(2).eval()}.items()
              if role in method.frozen}  # fmt: skip
    live = LiveTeacher(teacher, CPU, "fp32", fold=True) if frozen else None
    own = Views(images, 0, False, (0.5,), (0.3,))
    task = Task(Views(images, 1, False, (0.5,), (0.3,)), labels, own, labels, live, None, frozen)
    settings = Recipe(**{"epochs": 3, "batch_size": BATCH, "lr": 0.05, "momentum": 0.9, "clip_norm": 1.0, **recipe})
    peers = {role: network(5) for role in method.trained if role != "student"}
    return Training(method, network(3), task, settings, 7, engine or Engine(), peers)


def graphed(method: Method, recorder: Any, **recipe: Any) -> tuple[Training, GraphedStep]:
    run = training(method, **recipe)
    run.graph = GraphedStep(run, recorder)
    return run, run.graph


def left_by(run: Training) -> dict[str, Tensor]:
    """All that a training has learned, and its curves."""
    found = {f"{role}.{k}": v for role, net in run.stored.items() for k, v in net.state_dict().items()}
    found |= {f"aux.{k}": v for k, v in run.aux.state_dict().items()} | {f"state.{k}": v for k, v in run.state.items()}
    curves = {k: torch.tensor(v, dtype=torch.float64) for k, v in run.curves.items() if not k.endswith("_s")}
    return found | {f"curve {k}": v for k, v in curves.items()}


def assert_equal_to_eager(run: Training, eager: Training) -> None:
    for _ in range(2):
        run.epoch()
        eager.epoch()
    one, other = left_by(run), left_by(eager)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["kd", "crd", "dml", "fitnet", "l2sp", "ctkd"])
def test_replayed_steps_equal_eager_steps_bit_for_bit(name: str, optimizer: str) -> None:
    """Among them a method with draws and a memory bank, one with a peer, modules of its own, and one with progress."""
    recorder = Recorder()
    run, step = graphed(method_from({"name": name}), recorder, optimizer=optimizer, warmup_epochs=1.0)
    assert_equal_to_eager(run, training(method_from({"name": name}), optimizer=optimizer, warmup_epochs=1.0))
    if not step.reason:
        assert recorder.recorded == 1
        assert recorder.replays == 2 * (N // BATCH) - WARM_UP  # each full batch but those before the recording


def test_all_of_these_methods_but_ctkd_are_recorded() -> None:
    """ctkd computes with progress on the host."""
    reasons = {}
    for name in ("kd", "crd", "dml", "fitnet", "l2sp", "ctkd"):
        run, step = graphed(method_from({"name": name}), Recorder())
        run.epoch()
        reasons[name] = step.reason
    assert [name for name, reason in reasons.items() if reason] == ["ctkd"]


@dataclass(frozen=True)
class Asking(Method):
    """Cross entropy, and a term of a test's choice."""

    name = "asking"
    reads = ()
    frozen = ()
    term: Callable[[Step], Tensor] = lambda s: s.labels.new_zeros((), dtype=torch.float32)
    new_state: Callable[[Step], dict[str, Tensor]] = lambda s: {}

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        return {"steps": torch.zeros(())}

    def update(self, s: Step) -> dict[str, Tensor]:
        return {"steps": s.state["steps"] + 1, **self.new_state(s)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": cross_entropy(s.student.logits, s.labels), "more": self.term(s)}


def zero(s: Step) -> Tensor:
    return s.student.logits.new_zeros(())


def test_progress_learning_rate_and_state_are_read_at_every_replay() -> None:
    method = Asking(term=lambda s: s.progress * s.student.logits.square().mean() + s.state["steps"])
    run, step = graphed(method, Recorder(), schedule="cosine")
    assert_equal_to_eager(run, training(method, schedule="cosine"))
    assert step.reason == "" and run.state["steps"] == 2 * 8


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (lambda s: zero(s) if s.progress > 0.5 else zero(s) + 1, "aten._local_scalar_dense"),
        (lambda s: zero(s) + 10 ** float(s.progress), "aten._local_scalar_dense"),
        (lambda s: s.student.logits[s.labels > 0].sum(), "aten.index.Tensor"),
        (lambda s: zero(s) + len(s.labels.unique()), "aten._unique2"),
    ],
)
def test_a_step_that_reads_numbers_on_the_host_stays_eager_with_one_line(
    term: Callable[[Step], Tensor], said: str, caplog: Any
) -> None:
    recorder = Recorder()
    run, step = graphed(Asking(term=term), recorder)
    with caplog.at_level(logging.WARNING, "kdbench.train.graphs"):
        assert_equal_to_eager(run, training(Asking(term=term)))
    assert said in step.reason and recorder.recorded == 0
    assert [r.getMessage() for r in caplog.records] == [
        f"method 'asking': no CUDA graph, steps are eager: {step.reason}"
    ]


def test_a_recording_that_fails_leaves_the_training_as_it_was() -> None:
    def refuse(body: Callable[[], Terms]) -> Any:
        body()  # as a capture that breaks off in the middle has run the Python of a step
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    run, step = graphed(Asking(term=zero, new_state=lambda s: {}), lambda body: refuse(dict))
    assert_equal_to_eager(run, training(Asking(term=zero)))
    assert step.reason == "RuntimeError: operation not permitted when stream is capturing"


def test_a_graph_that_gives_something_else_is_found_out_at_its_first_replay() -> None:
    def wrong(body: Callable[[], Terms]) -> tuple[Callable[[], object], Terms]:
        replay, terms = Recorder()(body)

        def spoil() -> None:
            replay()
            terms["loss"] = terms["loss"] * 1.01

        return spoil, terms

    run, step = graphed(Asking(term=zero), wrong)
    assert_equal_to_eager(run, training(Asking(term=zero)))
    assert step.reason == "a replay does not give what the eager step gives: loss"


def test_a_graph_that_has_a_batch_baked_in_is_found_out() -> None:
    """As one would be whose buffers were not filled."""

    class Stuck(Buffers):
        def fill(self, *arguments: Any) -> None:
            self.index.fill_(0)

    run, step = graphed(Asking(term=zero), Recorder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.train.graphs.Buffers", Stuck)
        assert_equal_to_eager(run, training(Asking(term=zero)))
    assert step.reason.startswith("a replay does not give what the eager step gives: loss")


def test_state_that_appears_late_stays_eager() -> None:
    def late(s: Step) -> dict[str, Tensor]:
        return {"late": torch.zeros(())} if counted.pop() == 0 else {}

    counted = [0] * 99 + [1] * (WARM_UP)  # popped from the end
    run, step = graphed(Asking(term=zero, new_state=late), Recorder())
    run.epoch()
    assert step.reason.startswith("MethodError: update() adds the state late in a later step")


@pytest.mark.parametrize(
    ("name", "reason"), [("sskd", "the method makes inputs of its own"), ("pseudo_labels", "images without labels")]
)
def test_methods_whose_batches_are_not_all_in_the_buffers_are_not_recorded(name: str, reason: str) -> None:
    run = training(method_from({"name": "kd"}))
    run.method = method_from({"name": name})
    assert reason in GraphedStep(run, Recorder()).reason


def test_without_a_gpu_and_without_a_fused_optimiser_steps_are_eager() -> None:
    assert training(Asking(term=zero), Engine(step="graph")).graph.reason == "the device is no GPU"  # type: ignore[union-attr]
    run = training(Asking(term=zero), Engine(optimizer="foreach"))
    assert GraphedStep(run, Recorder()).reason == "the optimiser has no fused kernel"


def test_a_training_that_goes_on_from_a_checkpoint_records_again(tmp_path: Any) -> None:
    method = method_from({"name": "crd"})
    whole = training(method)
    whole.epoch()
    whole.save(tmp_path / "c.safetensors", {})
    whole.epoch()
    run, _ = graphed(method, Recorder())
    run.epoch()  # records, and then finds itself at the checkpoint again
    run.restore(tmp_path / "c.safetensors")
    assert run.graph is not None and run.graph._buffers is None
    run.graph = GraphedStep(run, Recorder())
    run.epoch()
    for name, tensor in left_by(whole).items():
        assert torch.equal(tensor, left_by(run)[name]), name


def test_only_numbers_that_go_to_the_host_are_noted() -> None:
    x = torch.randn(3, requires_grad=True)
    with HostReads() as watch:
        nn.functional.softmax(x[torch.tensor([2, 0])], 0).sum().backward()
        x.data[torch.tensor([1])] = 0.0
    assert watch.seen == ""
    with HostReads() as watch:
        x.data[torch.tensor([True, False, True])] = torch.tensor([1.0, 2.0])
    assert watch.seen == "aten.index_put_.default"


def test_rounding_is_close_and_another_number_is_not() -> None:
    one = torch.tensor([1.0, 100.0, torch.inf])
    assert close(one, one * (1 + 1e-6))
    assert not close(one, torch.tensor([1.0, 101.0, torch.inf]))
    assert not close(one, torch.tensor([1.0, 100.0, 3.0]))
    assert close(torch.zeros(0), torch.zeros(0))
