"""Methods that misbehave, each in its own way; all else is that of vanilla distillation. Loaded as a plug-in file."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register

print("imported")  # no output of kdbench's
torch.set_default_dtype(torch.float64)  # what it may not do at import


class Base(Method):
    """Match the teacher's logits, and see the teacher."""

    def loss(self, s: Step) -> dict[str, Tensor]:
        match = (s.student.logits - s.target.logits).square().mean()
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "match": self.weight * match}

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        kept["teacher"], kept["student"] = setup.networks["teacher"], setup.trained["student"]
        return {}


kept: dict[str, nn.Module] = {}


def bad(function: Any) -> Any:
    """A method of that name that calls the function in its loss, before or instead of what it returns."""

    def loss(self: Any, s: Step) -> Any:
        terms = Base.loss(self, s)
        odd = function(s)
        return terms if odd is None else odd

    name = function.__name__
    fields = {"__annotations__": {"weight": "float"}, "weight": hp(1.0, low=0.1, high=10, log=True), "loss": loss}
    return register(name)(dataclass(frozen=True)(type(name, (Base,), {**fields, "__module__": __name__})))


@bad
def raises(s: Step) -> None:
    raise RuntimeError("boom")


@bad
def exits(s: Step) -> None:
    sys.exit(3)


@bad
def raises_interrupt(s: Step) -> None:
    raise KeyboardInterrupt


@bad
def returns_a_float(s: Step) -> Any:
    return {"ce": 1.0}


@bad
def returns_a_vector(s: Step) -> Any:
    return {"ce": s.student.logits.mean(dim=1)}


@bad
def returns_none_of_it(s: Step) -> Any:
    return [s.student.logits.mean()]


@bad
def forgets_the_student(s: Step) -> Any:
    return {"ce": s.target.logits.mean()}


@bad
def is_not_a_number(s: Step) -> Any:
    return {"ce": s.student.logits.mean() * float("nan")}


@bad
def halves_the_teacher(s: Step) -> None:
    for parameter in kept["teacher"].parameters():
        parameter.data.mul_(0.5)  # which leaves the version of the tensor


@bad
def trains_the_teacher(s: Step) -> None:
    kept["teacher"].train()


@bad
def shifts_statistics(s: Step) -> None:
    next(b for n, b in kept["teacher"].named_buffers() if n.endswith("running_mean")).add_(1.0)


@bad
def hooks_the_teacher(s: Step) -> None:
    kept["teacher"].register_forward_hook(lambda module, inputs, output: None)


@bad
def hooks_the_student(s: Step) -> None:
    kept["student"].register_forward_hook(lambda module, inputs, output: None)


@bad
def hooks_everything(s: Step) -> None:
    nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)


@bad
def scales_outputs(s: Step) -> None:
    with torch.no_grad():
        s.student.logits.mul_(2.0)


@bad
def shuffles_labels(s: Step) -> None:
    s.labels.zero_()


@bad
def seeds_torch(s: Step) -> None:
    torch.manual_seed(0)


@bad
def seeds_numpy(s: Step) -> None:
    np.random.seed(0)


@bad
def draws_at_random(s: Step) -> None:
    random.random()


@bad
def sets_dtype(s: Step) -> None:
    torch.set_default_dtype(torch.float64)


@bad
def sets_threads(s: Step) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


@bad
def sets_deterministic(s: Step) -> None:
    torch.use_deterministic_algorithms(True)


@bad
def stops_gradients(s: Step) -> None:
    torch.set_grad_enabled(False)


@bad
def moves_away(s: Step) -> None:
    os.chdir("/")


@bad
def prints_megabytes(s: Step) -> None:
    print("x" * 1_000_000)


@register("breaks_in_its_constructor")
@dataclass(frozen=True)
class BreaksInItsConstructor(Base):
    """Refuses to be made with any weight but the published one."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def __post_init__(self) -> None:
        if self.weight != 1.0:
            raise ValueError(f"no weight of {self.weight}")


@register("exits_in_its_constructor")
@dataclass(frozen=True)
class ExitsInItsConstructor(Base):
    """Ends the process where it is made with another weight."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def __post_init__(self) -> None:
        if self.weight != 1.0:
            sys.exit("bye")


@register("breaks_in_build")
@dataclass(frozen=True)
class BreaksInBuild(Base):
    """Asks for a layer of less than no size."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"regressor": nn.Linear(-1, 1)}


@register("builds_no_module")
@dataclass(frozen=True)
class BuildsNoModule(Base):
    """Returns a tensor for a module."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def build(self, setup: Setup) -> Any:
        return {"regressor": torch.zeros(3)}


@register("changes_inputs")
@dataclass(frozen=True)
class ChangesInputs(Base):
    """Darkens the images that the networks have seen."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def inputs(self, images: Tensor, labels: Tensor, draw: Any, nets: Any) -> dict[str, Tensor]:
        return {"dark": images.mul_(0.5)}


@register("eats_memory")
@dataclass(frozen=True)
class EatsMemory(Base):
    """Asks for an exbibyte."""

    weight: float = hp(1.0, low=0.1, high=10, log=True)

    def sample(self, index: Tensor, setup: Setup, generator: Any) -> dict[str, Tensor]:
        return {"bank": torch.empty(2**60, dtype=torch.uint8)}
