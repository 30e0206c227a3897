"""Variational information distillation (VID)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("vid")
@dataclass(frozen=True)
class VID(Method):
    """Maximise a lower bound of the mutual information of the features of student and teacher.

        loss = CE(z_s, y) + beta * sum_k mean((m_k(f_s^k) - f_t^k)^2 / v_k + log v_k) / 2,    v_k = softplus(a_k) + eps

    with a regressor m_k and one variance v_k for each channel of the teacher, both trained.

    Source: Ahn, Hu, Damianou, Lawrence, Dai 2019, arXiv:1904.05835, sections 2 and 3.
    Differs: three 1x1 convolutions without batch norm in the regressor, and of two maps of unequal size the larger is
        average-pooled: as RepDistiller. Vectors are regressed with linear layers; where one network has a vector, the
        other's map is averaged. Stages are paired by number as far as both networks have them; the logits have no term
        of their own.
    Defaults: beta = 1, init_variance = 5, eps = 1e-5, expansion = 1 (RepDistiller, CIFAR-100).
    """

    beta: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the log-likelihood, all stages")
    init_variance: float = static(5.0, help="variance at the start, above eps")
    eps: float = static(1e-5, help="lower limit of the variance")
    expansion: float = static(1.0, help="channels inside a regressor per channel of the teacher")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """A Gaussian for each stage. Raise MethodError where the networks share none."""
        return {
            name: losses.variational.Gaussian(
                setup.student[name], setup.teacher[name], self.init_variance, self.eps, self.expansion
            )
            for name in losses.stages.shared(setup.student, setup.teacher)
        }

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and negative log-likelihood of the teacher's features, summed over stages."""
        student, teacher = s.student.features, s.target.features
        stages = [s.aux[name](student[name], teacher[name]) for name in losses.stages.shared(student, teacher)]
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "vid": self.beta * sum(stages)}
