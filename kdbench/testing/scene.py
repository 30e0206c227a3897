"""What the trainer hands to a method, made small."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdbench.errors import MethodError
from kdbench.method import Method, Outputs, Shapes, Step
from kdbench.testing.batches import IMAGE_SHAPE, Batch
from kdbench.testing.networks import Pair
from kdbench.train.loop import set_train_mode, shapes_of

N_TRAIN = 64


class Scene:
    """A method with a student, a teacher and its own modules and state, set up as the trainer does.

    nets: the trained networks by role. teacher: in eval mode, without gradients; None for methods with `frozen = ()`.
    Its outputs hold what the method declares in `reads`; what it does not declare is NaN or missing, as it would be
    with a cached teacher. autocast: run networks and loss in bf16, on maps in channels_last.
    """

    def __init__(self, method: Method, pair: Pair, seed: int = 0, autocast: bool = False) -> None:
        self.method, self.autocast = method, autocast
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.nets = {role: pair.student(pair.classes) for role in method.trained}
            self.teacher = opinionated(pair.teacher(pair.classes)) if "teacher" in method.frozen else None
            self.student = self.nets["student"]
            teacher = {} if self.teacher is None else shapes_of(outputs_of(self.teacher))
            shapes = Shapes(shapes_of(outputs_of(self.student)), teacher)
            self.aux = nn.ModuleDict(method.build(shapes))
            self.state = method.init_state(shapes, N_TRAIN)
        self.start = {name: p.detach().clone() for name, p in self.student.named_parameters()}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(method.trains(name, self.student.head_prefix))
        self.modules = nn.ModuleList([*self.nets.values(), self.aux])
        self.memory_format = torch.channels_last if autocast else torch.contiguous_format
        self.modules.to(memory_format=self.memory_format)
        for net in self.nets.values():
            set_train_mode(net)
        for module in self.aux.values():
            set_train_mode(module, before=True)

    def trained_parameters(self) -> dict[str, Tensor]:
        """Every parameter that the optimiser would change, by a name that starts with its role or with `aux`."""
        named = {f"{role}.{name}": p for role, net in self.nets.items() for name, p in net.named_parameters()}
        named |= {f"aux.{name}": p for name, p in self.aux.named_parameters()}
        found: dict[str, Tensor] = {name: p for name, p in named.items() if p.requires_grad}
        if not found:
            raise MethodError(f"'{self.method.name}' trains no parameter: trains() is False for every name")
        return found

    def step(self, batch: Batch, progress: float = 0.5) -> Step:
        """Run the networks on a batch."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        with self.precision():
            outputs: dict[str, Outputs] = {role: net(images) for role, net in self.nets.items()}
            teacher = None
            if self.teacher is not None:
                with torch.no_grad():
                    teacher = outputs["teacher"] = self.declared(self.teacher(images))
        generator = torch.Generator().manual_seed(0)
        return Step(
            labels=batch.labels,
            index=batch.index,
            student=outputs["student"],
            teacher=teacher,
            nets=outputs,
            aux=dict(self.aux.items()),
            state=self.state,
            draw=self.method.sample(batch.index, N_TRAIN, generator),
            params=dict(self.student.named_parameters()),
            start=self.start,
            head=self.student.head_prefix,
            progress=progress,
        )

    def terms(self, step: Step) -> dict[str, Tensor]:
        """The method's loss, in the precision of the scene."""
        with self.precision():
            return self.method.loss(step)

    def total(self, step: Step) -> Tensor:
        """Sum of all terms, as the trainer minimises it."""
        return torch.stack([term.float() for term in self.terms(step).values()]).sum()

    def declared(self, outputs: Outputs) -> Outputs:
        """The teacher's outputs as far as `reads` names them."""
        reads, nan = self.method.reads, float("nan")
        return dataclasses.replace(
            outputs,
            logits=outputs.logits if "logits" in reads else torch.full_like(outputs.logits, nan),
            pooled=outputs.pooled if "pooled" in reads else torch.full_like(outputs.pooled, nan),
            features=outputs.features if "features" in reads else {},
        )

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Autocast to bf16, or nothing."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            yield


def outputs_of(net: nn.Module) -> Outputs:
    """Outputs for two blank images; the network is put into eval mode."""
    with torch.no_grad():
        outputs: Outputs = net.eval()(torch.zeros(2, *IMAGE_SHAPE))
    return outputs


def opinionated(teacher: nn.Module) -> nn.Module:
    """The teacher, frozen, with logits large enough that its classes differ, as those of a trained one do."""
    teacher.eval().requires_grad_(False)
    head = teacher.get_submodule("head")
    for parameter in head.parameters():
        parameter.mul_(20)
    return teacher
