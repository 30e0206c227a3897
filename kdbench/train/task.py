"""What a training is given before its first step: images, labels, frozen networks, and the shapes that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdbench.data.views import Views
from kdbench.method import Outputs, Setup
from kdbench.nets.base import Network
from kdbench.train.group import ALONE, Alone
from kdbench.train.teachers import Teacher


@dataclass(frozen=True)
class Task:
    """What a training learns from: views of the training and validation images, their labels, and frozen networks.

    teacher: how the teacher's outputs come about. teacher_validation: its logits (n, C) on the validation images, for
    the agreement metric, or None. frozen: the frozen networks by role, `teacher` and `source`, as far as there are any.
    unlabelled: further training images without labels, or None. group: the processes that share the training.
    """

    train: Views
    train_labels: Tensor
    validation: Views
    validation_labels: Tensor
    teacher: Teacher | None = None
    teacher_validation: Tensor | None = None
    frozen: Mapping[str, Network] = field(default_factory=dict)
    unlabelled: Views | None = None
    group: Alone = ALONE


def shapes_of(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    """Shapes of one sample of every feature, of `pooled` and of `logits`."""
    named = {**outputs.features, "pooled": outputs.pooled, "logits": outputs.logits}
    return {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}


def probe(net: Network, views: Views) -> Outputs:
    """Outputs for two training images, in eval mode: for shapes."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        outputs: Outputs = net(views.plain(torch.arange(2, device=views.device)))
    net.train(was_training)
    return outputs


def set_train_mode(module: nn.Module, before: bool = False) -> bool:
    """Train mode, but what is frozen is in eval mode with all that it holds, so that its statistics stay.

    A part without parameters (dropout, batch norm without affine) goes with the part before it, in the order in which
    parts were added; `before`: whether that one trains. Returns the same for whatever comes after `module`.
    """
    trains = {parameter.requires_grad for parameter in module.parameters()}
    if trains == {True, False}:
        module.train()
        for child in module.children():
            before = set_train_mode(child, before)
        return before
    before = True in trains if trains else before
    module.train(before)
    return before


def setup_of(student: Network, task: Task) -> Setup:
    """What a method is told before the first step, about a student that it has not changed yet."""
    shapes = {role: shapes_of(probe(net, task.train)) for role, net in task.frozen.items()}
    return Setup(
        student=shapes_of(probe(student, task.train)),
        teacher=shapes.get("teacher", {}),
        source=shapes.get("source", {}),
        networks=task.frozen,
        labels=task.train_labels,
        image_shape=task.train.image_shape,
        mean=task.train.mean,
        std=task.train.std,
    )
