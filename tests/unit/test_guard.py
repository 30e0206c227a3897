"""What the guard finds on a method that does not leave things as they were, and what it leaves alone."""

from __future__ import annotations

import logging
import random
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_loop import CPU, Plain, noise, small, training
from torch import Tensor

from kdbench import plugins
from kdbench.errors import MethodError
from kdbench.method import Setup, Step
from kdbench.store import Store
from kdbench.train.guard import LONGEST_OUTPUT, checksums, contained
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.teachers import LiveTeacher
from kdbench.train.workshop import Workshop


@dataclass(frozen=True)
class Taught(Plain):
    """Plain, with a teacher."""

    frozen = ("teacher",)


def taught(terms: Any = None) -> tuple[Any, Any]:
    """A training with a live teacher, and the teacher's network."""
    net = small(seed=1)
    teacher = LiveTeacher(net, CPU, "fp32")
    task = replace(noise(10), frozen={"teacher": net}, teacher=teacher)
    return Training(Taught(terms), small(), task, Recipe(epochs=2, batch_size=4, lr=0.1), 3, "fp32"), net


def test_a_checksum_sees_one_bit_and_a_swap_is_seen_by_the_version() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    before = checksums([tensor, torch.zeros(0), torch.tensor(True)])
    tensor.data[0, 0] = torch.nextafter(tensor[0, 0], torch.tensor(1.0))
    assert checksums([tensor, torch.zeros(0), torch.tensor(True)]) != before

    def swap(s: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            net.head.weight.copy_(net.head.weight.flip(0))
        return {}

    run, net = taught(swap)
    with pytest.raises(MethodError, match="changed the weights of the teacher"):
        run.epoch()


@pytest.mark.parametrize("change", ["data", "buffer", "mode", "gradient"])
def test_a_changed_teacher_is_named_after_the_epoch(change: str) -> None:
    def terms(s: Step) -> dict[str, Tensor]:
        match change:
            case "data":
                net.head.weight.data.mul_(0.5)
            case "buffer":
                next(iter(net.buffers())).add_(1)
            case "mode":
                net.train()
            case "gradient":
                net.requires_grad_(True)
        return {}

    run, net = taught(terms)
    what = "mode" if change in ("mode", "gradient") else "weights"
    with pytest.raises(
        MethodError, match=rf"method 'plain': .* changed .*the {what} of the teacher\. Allowed: to read"
    ):
        run.epoch()


def test_a_training_that_leaves_all_as_it_was_is_bit_equal_to_one_without_a_guard() -> None:
    run, net = taught()
    before, state = checksums(list(net.parameters())), (random.getstate(), np.random.get_state()[1].tolist())
    alone, _ = taught()
    alone.method = alone.method._method
    run.epoch()
    with torch.random.fork_rng():
        Training.epoch.__wrapped__(alone)  # type: ignore[attr-defined]
    assert all(torch.equal(t, alone.student.state_dict()[k]) for k, t in run.student.state_dict().items())
    assert checksums(list(net.parameters())) == before
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_one_draw_of_another_thread_is_no_violation_but_a_habit_is() -> None:
    def once(s: Step) -> dict[str, Tensor]:
        if s.progress == 0:
            random.random()
        return {}

    def always(s: Step) -> dict[str, Tensor]:
        np.random.rand()
        return {}

    state = random.getstate()
    training(Plain(once), epochs=3).epoch()
    assert random.getstate() == state, "what was drawn is given back"
    run = training(Plain(always), epochs=3)
    with pytest.raises(MethodError, match=r"loss\(\) draws from the global generator"):
        for _ in range(3):
            run.epoch()


@pytest.mark.parametrize("fails", [False, True])
def test_settings_are_put_back_even_where_the_method_breaks(fails: bool) -> None:
    def terms(s: Step) -> dict[str, Tensor]:
        torch.set_default_dtype(torch.float64)
        if fails:
            raise ValueError("no")
        return {}

    with pytest.raises(MethodError, match=r"torch's default dtype \(from torch.float32 to torch.float64\)"):
        training(Plain(terms)).epoch()
    assert torch.get_default_dtype() == torch.float32


def test_hooks_on_the_student_are_allowed_in_adapt_alone() -> None:
    @dataclass(frozen=True)
    class InAdapt(Plain):
        def adapt(self, student: Any, setup: Setup) -> Any:
            student.register_forward_hook(lambda module, inputs, output: None)
            return student

    @dataclass(frozen=True)
    class InBuild(Plain):
        def build(self, setup: Setup) -> Any:
            setup.trained["student"].register_forward_hook(lambda module, inputs, output: None)
            return {}

    training(InAdapt()).epoch()
    with pytest.raises(MethodError, match=r"build\(\) or another call left hooks on the student"):
        training(InBuild())


def test_what_a_method_prints_goes_to_standard_error_and_is_cut(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        training(Plain(lambda s: print("x" * LONGEST_OUTPUT) or {})).epoch()
    out, err = capsys.readouterr()
    assert out == "" and err.count("x") == LONGEST_OUTPUT
    assert [record.getMessage() for record in caplog.records] == [
        "method 'plain' has printed 64 KiB; the rest is dropped"
    ]


def raised(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_exit_is_contained_only_where_a_plug_in_raises_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop(Store(tmp_path), CPU)
    shop.keep("teacher", object)
    for function in (lambda: sys.exit(3), interrupt):
        error = raised(function)
        assert raised(lambda e=error: contained(e, shop)) is error, "this file is no plug-in"
    monkeypatch.setitem(plugins._hashes, __name__, "0" * 64)
    monkeypatch.setitem(plugins._files, __file__, sys.modules[__name__])  # type: ignore[arg-type, call-overload]
    told = contained(raised(interrupt), shop)
    assert isinstance(told, MethodError) and shop._kept == {}
    assert "plug-in test_guard.py, line" in str(told) and "in interrupt(): KeyboardInterrupt()" in str(told)

    def waits() -> None:
        while True:
            signal.raise_signal(signal.SIGINT)

    error = raised(waits)
    assert isinstance(error, KeyboardInterrupt)
    assert raised(lambda: contained(error, shop)) is error, "Ctrl-C is the user's"
