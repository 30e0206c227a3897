"""Distillation with the reused teacher classifier (SimKD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdbench.nets.base import Network


@register("simkd")
@dataclass(frozen=True)
class SimKD(Method):
    """Give the student the teacher's classifier, and train the rest to make the teacher's last feature map.

        loss = beta * mean((P(f_s) - f_t)^2)

    with f the map that a network averages before its classifier, and P a projector: 1x1, 3x3 and 1x1 convolutions with
    batch norm and ReLU. Student, projector and the frozen classifier of the teacher are what is tested and deployed.

    Source: Chen, Mei, Zhang, Wang, Feng, Chen 2022, arXiv:2203.14001, section 3, and the authors' code.
    Differs: the projector ends without a ReLU where the teacher's map does not come out of one (ViT), as it could not
        be met otherwise. Layers of the student between its last stage and the average (MobileNetV2) stay in it and
        come before the projector. Where it is not known which map a network averages (timm, torchvision), or features
        are vectors, the pooled features count as a map of one position. As in the code, the larger of two maps is
        average-pooled. There is no cross entropy with the labels, so `beta` only scales the learning rate.
    Defaults: beta = 1, factor = 2 (authors' code, CIFAR-100 and ImageNet; 4 and 8 in the paper make it smaller).
    """

    beta: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the distance of the last maps")
    factor: int = static(2, allowed=(1, 2, 4, 8), help="the teacher's channels over those inside the projector")

    reads = ("features", "pooled")
    mean_over_samples = True

    def adapt(self, student: Network, setup: Setup) -> Network:
        """The student with projector and the teacher's classifier. Raise MethodError if that is not a linear layer."""
        from kdbench.nets.joined import with_teacher_head

        return with_teacher_head(student, setup, self.factor)

    def trains(self, parameter: str, head: str) -> bool:
        """All but the classifier, which is the teacher's."""
        return not parameter.startswith(head)

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """What makes the teacher's last map from its outputs, frozen."""
        from kdbench.nets.joined import LastMap

        return {"last_map": LastMap.of(setup.networks["teacher"]).frozen()}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Squared distance of the student's projected map from the teacher's last map."""
        mine, theirs = s.student.features["projected"], s.aux["last_map"](s.target)
        theirs = losses.attention.pool_to(theirs, (mine.shape[2], mine.shape[3]))
        return {"simkd": self.beta * losses.regression.mse(mine, theirs)}
