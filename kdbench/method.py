"""The whole contract between kdbench and the author of a method.

A method is a frozen dataclass of hyper-parameters and one pure function, `loss`. The trainer owns batches, order,
views, precision, the teacher, optimiser, schedule, checkpoints, evaluation, timing and logging. Four rules: no
`.item()` and no Python `if` on a tensor (the step must not wait for the device), no state changed in place, no
randomness outside `sample`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.errors import MethodError
from kdbench.fields import hp, static
from kdbench.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = ["Method", "Outputs", "Shapes", "Step", "hp", "methods", "register", "static"]


@dataclass(frozen=True)
class Outputs:
    """What a network computes for one batch.

    logits: (B, C). pooled: (B, D), the input of the last linear layer.
    features: name -> (B, c, h, w), or (B, d) for networks without maps; ordered from input to output. A network built
    of stages names them `stage1`, `stage2`, ...; all are after the activation.
    """

    logits: Tensor
    pooled: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """Shapes of one sample, without the batch dimension, inferred by running the networks once.

    student, teacher: name -> shape of every feature, plus `logits` and `pooled`. `teacher` is empty without a teacher.
    """

    student: Mapping[str, tuple[int, ...]]
    teacher: Mapping[str, tuple[int, ...]]

    @property
    def classes(self) -> int:
        """Number of classes of the student."""
        return self.student["logits"][0]

    def stage(self, role: str, name: str) -> tuple[int, ...]:
        """Shape of one feature of `student` or `teacher`. Raise MethodError that lists what the network has."""
        shapes = self.student if role == "student" else self.teacher
        if name not in shapes:
            raise MethodError(f"the {role} has no feature '{name}'; it has {', '.join(shapes) or 'none'}")
        return shapes[name]


@dataclass(frozen=True)
class Step:
    """All that a loss may look at. A new need becomes a new field here, never a new signature.

    labels: (B,) int64. index: (B,) int64, position of each sample in the training split.
    student: outputs of the student; teacher: outputs of the frozen teacher (no gradient), or None for methods without.
    nets: outputs by role (`student`, `teacher`, and what else the method declares in `trained`).
    aux: the modules that `build` returned. state: the tensors that `init_state` and `update` returned.
    draw: the tensors that `sample` returned for this batch.
    params: the student's trainable and frozen parameters by name, at this step. start: the same at step 0, detached.
    head: prefix of the names of the classifier's parameters in `params`. progress: share of training done, in [0, 1].
    """

    labels: Tensor
    index: Tensor
    student: Outputs
    teacher: Outputs | None = None
    nets: Mapping[str, Outputs] = field(default_factory=dict)
    aux: Mapping[str, nn.Module] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    draw: Mapping[str, Tensor] = field(default_factory=dict)
    params: Mapping[str, Tensor] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    head: str = "head."
    progress: float = 0.0

    @property
    def target(self) -> Outputs:
        """The teacher's outputs. Raise MethodError in a step without a teacher."""
        if self.teacher is None:
            raise MethodError("this method reads the teacher, but the step has none")
        return self.teacher


class Method:
    """Base class of all methods: subclass it as a frozen dataclass and register it.

    `reads` says what it uses of the teacher: "logits", "pooled", "features". With `frozen = ()` no teacher is loaded.
    `starts_from = "source"` starts the student from weights trained on the study's source task.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ("logits",)
    trained: ClassVar[tuple[str, ...]] = ("student",)
    frozen: ClassVar[tuple[str, ...]] = ("teacher",)
    starts_from: ClassVar[str] = "scratch"

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Return named scalar terms, already weighted; the trainer sums and logs them. Required."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def build(self, shapes: Shapes) -> dict[str, nn.Module]:
        """Extra modules that are trained, moved and saved with the student."""
        return {}

    def init_state(self, shapes: Shapes, n_train: int) -> dict[str, Tensor]:
        """Extra tensors that are saved but not trained (memory banks, running statistics)."""
        return {}

    def update(self, s: Step) -> dict[str, Tensor]:
        """The new state after a step: returned, never changed in place. Called without gradients."""
        return {}

    def sample(self, index: Tensor, n_train: int, generator: Generator) -> dict[str, Tensor]:
        """Random draws for a batch: the only place for randomness."""
        return {}

    def trains(self, parameter: str, head: str) -> bool:
        """Whether the student's parameter of that name is trained; names of the classifier start with `head`."""
        return True

    def optimiser(self) -> dict[str, Any]:
        """Settings of the optimiser that this method fixes by definition, such as `{"weight_decay": 0.0}` of L2-SP."""
        return {}


methods: Registry[Method] = Registry("method", "kdbench.methods")
register = methods
