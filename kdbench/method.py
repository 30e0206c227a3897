"""The whole contract between kdbench and the author of a method.

A method is a frozen dataclass of hyper-parameters and one pure function, `loss`. The trainer owns batches, order,
views, precision, the teacher, optimiser, schedule, checkpoints, evaluation, timing and logging. Four rules: no
`.item()` and no Python `if` on a tensor (the step must not wait for the device), no state changed in place, no
randomness outside `sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.errors import MethodError
from kdbench.fields import hp, static
from kdbench.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from kdbench.nets.base import Network

    Networks = Mapping[str, Callable[[Tensor], "Outputs"]]

__all__ = ["Method", "Outputs", "Setup", "Step", "hp", "methods", "register", "static"]


@dataclass(frozen=True)
class Outputs:
    """What a network computes for one batch.

    logits: (B, C). pooled: (B, D), the input of the last linear layer.
    features: name -> (B, c, h, w), or (B, d) for networks without maps; ordered from input to output. A network built
    of stages names them `stage1`, `stage2`, ...; all are after the activation.
    preactivations: the same names, before the stage's last activation; where a stage does not end in one, its feature.
    """

    logits: Tensor
    pooled: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    preactivations: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What is known before the first step.

    student, teacher, source: shapes of one sample, without the batch dimension, inferred by running the networks once:
    name -> shape of every feature, plus `logits` and `pooled`; empty for a network that the method does not have.
    networks: the frozen networks by role (`teacher`, `source`), in eval mode; their weights must not be changed.
    trained: the networks that are trained, by role, for what `build` and `init_state` ask of them; empty in `adapt`.
    labels: (n_train,) int64, of the training split by `Step.index`.
    image_shape: (C, H, W) of an image, or (F,) of a row of numbers. mean, std: of the normalisation, by channel or
    column: pixels in [0, 1] are `mean + std * image`.
    """

    student: Mapping[str, tuple[int, ...]]
    teacher: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    source: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    trained: Mapping[str, Network] = field(default_factory=dict)
    labels: Tensor | None = None
    image_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes of the student."""
        return self.student["logits"][0]

    @property
    def training_labels(self) -> Tensor:
        """The labels of the training split. Raise MethodError where there are none."""
        if self.labels is None:
            raise MethodError("this method reads the labels of the training split, but the setup has none")
        return self.labels

    def stage(self, role: str, name: str) -> tuple[int, ...]:
        """Shape of one feature of `student`, `teacher` or `source`. Raise MethodError that lists what there is."""
        shapes: Mapping[str, tuple[int, ...]] = getattr(self, role)
        if name not in shapes:
            raise MethodError(f"the {role} has no feature '{name}'; it has {', '.join(shapes) or 'none'}")
        return shapes[name]


@dataclass(frozen=True)
class Step:
    """All that a loss may look at. A new need becomes a new field here, never a new signature.

    labels: (B,) int64. index: (B,) int64, position of each sample in the training split.
    student: outputs of the student; teacher: outputs of the frozen teacher (no gradient), or None for methods without.
    nets: outputs by role: `student`, and what the method declares in `trained`, `frozen` and `followers`.
    more: outputs by the name of a further input (see Method.inputs and Method.unlabelled) and by role.
    aux: the modules that `build` returned. state: the tensors that `init_state` and `update` returned.
    draw: the tensors that `sample` returned for this batch.
    networks: the trained networks themselves, by role, for losses that run a part of one on an input of their own.
    params: the student's trainable and frozen parameters by name, at this step. start: the same at step 0, detached.
    head: prefix of the names of the classifier's parameters in `params`. progress: share of training done, in [0, 1].
    """

    labels: Tensor
    index: Tensor
    student: Outputs
    teacher: Outputs | None = None
    nets: Mapping[str, Outputs] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Outputs]] = field(default_factory=dict)
    aux: Mapping[str, nn.Module] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    draw: Mapping[str, Tensor] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
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

    reads: what it uses of the teacher: "logits", "pooled", "features", "preactivations". trained: roles of the networks
    that the optimiser changes; a role beside "student" is a second network of the student's shape with weights of its
    own. frozen: roles of the networks that never change: "teacher", and "source", the network that the student starts
    from, with its own classifier. With `frozen = ()` no teacher is loaded. starts_from: "source" starts the student
    from weights trained on the study's source task. unlabelled: whether `Step.more["unlabelled"]` is needed: outputs on
    a batch of images without labels, of the study's `data.unlabelled`. student_family: the only model family that it
    is made for, or empty. mean_over_samples: whether every term of the loss is the mean of its samples' own values, or
    looks at weights alone, in every form of the method, and it has no `update`, `sample` or followers: a batch may then
    be divided between processes, its loss being the mean of theirs.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ("logits",)
    trained: ClassVar[tuple[str, ...]] = ("student",)
    frozen: ClassVar[tuple[str, ...]] = ("teacher",)
    starts_from: ClassVar[str] = "scratch"
    unlabelled: ClassVar[bool] = False
    student_family: ClassVar[str] = ""
    mean_over_samples: ClassVar[bool] = False

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Return named scalar terms, already weighted; the trainer sums and logs them. Required.

        The cross entropy with the labels is named `ce`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """Extra modules that are trained, moved and saved with the student, but not deployed with it."""
        return {}

    def adapt(self, student: Network, setup: Setup) -> Network:
        """The network that is trained, tested and deployed in place of the plain student; `setup` has the shapes of the
        plain student. For methods that change the student itself; what they add counts in its size and latency."""
        return student

    @property
    def adapts(self) -> bool:
        """Whether the method changes the student itself."""
        return type(self).adapt is not Method.adapt

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        """Extra tensors that are saved but not trained (memory banks, running statistics, constants of the teacher)."""
        return {}

    def update(self, s: Step) -> dict[str, Tensor]:
        """The new state after a step: returned, never changed in place. Called without gradients, after `loss` and
        before the optimiser moves the weights."""
        return {}

    def sample(self, index: Tensor, setup: Setup, generator: Generator) -> dict[str, Tensor]:
        """Random draws for the batch `index` (B,): the only place for randomness. Draw on `generator.device`."""
        return {}

    def inputs(self, images: Tensor, labels: Tensor, draw: Mapping[str, Tensor], nets: Networks) -> dict[str, Tensor]:
        """Further images that all networks are run on, by the name under which `Step.more` has their outputs.

        images: (B, C, H, W), the normalised views of this step. draw: what `sample` returned. nets: networks to be
        called, by role, for inputs that follow a gradient. Return images of any batch size, without gradients. A method
        that overrides this takes the live teacher. Networks that `runs` leaves out are not run on an input.
        """
        return {}

    def runs(self, name: str) -> tuple[str, ...] | None:
        """Roles of the networks that are run on the further input of that name; None: all of them."""
        return None

    @property
    def has_inputs(self) -> bool:
        """Whether the method runs the networks on further images."""
        return type(self).inputs is not Method.inputs

    def followers(self) -> dict[str, float]:
        """Networks that follow the student as exponential moving averages: role -> momentum in [0, 1)."""
        return {}

    def trains(self, parameter: str, head: str) -> bool:
        """Whether the student's parameter of that name is trained; names of the classifier start with `head`."""
        return True

    def lr_factor(self, parameter: str, head: str) -> float:
        """Factor of the learning rate of the student's parameter of that name."""
        return 1.0

    def optimiser(self) -> dict[str, Any]:
        """Settings of the optimiser that this method fixes by definition, such as `{"weight_decay": 0.0}` of L2-SP."""
        return {}


methods: Registry[Method] = Registry("method", "kdbench.methods")
register = methods
