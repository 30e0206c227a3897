"""Knowledge distillation by singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("kdsvd")
@dataclass(frozen=True)
class KDSVD(Method):
    """Match how the main combination of channels of one stage goes with that of the next.

        loss = CE(z_s, y) + beta * sum_k |R(v_s^k, v_s^(k+1)) - R(v_t^k, v_t^(k+1))|^2 / B

    with v^k the first right-singular vectors of a map as a matrix (h * w, c), those of the student aligned with those
    of the teacher, B samples, and R(a, b)[i, j] = exp(-(a_i - b_j)^2 / 8).

    Source: Lee, Kim, Song 2018, arXiv:1807.06819, section 3; as RepDistiller's KDSVD.
    Differs: vectors of the teacher point to where their elements sum to 0 or more; in published code the sign is what
        the library returns, and the value depends on it by a factor of 3 to 4. Derivatives by differences of equal
        singular values are left out. Where student and teacher have unequal channels, which that code refuses, a
        learned 1x1 convolution maps the student's. Stages are paired by number.
    Defaults: beta = 1, vectors = 1 (RepDistiller, CIFAR-100).
    """

    beta: float = hp(1.0, low=0.1, high=100, log=True, minimum=0, help="weight of the distance")
    vectors: int = static(1, allowed=(1, 2, 3, 4), help="singular vectors of each stage")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """1x1 convolutions for stages with unequal channels. Raise MethodError without two shared stages of maps."""
        modules: dict[str, nn.Module] = losses.regression.channel_maps(setup, losses.stages.chain("kdsvd", setup))
        return modules

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and distance of the relations between singular vectors."""
        names = losses.stages.shared(s.student.features, s.target.features)
        features = s.student.features
        student = [s.aux[name](features[name]) if name in s.aux else features[name] for name in names]
        teacher = [s.target.features[name] for name in names]
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "kdsvd": self.beta * losses.singular.singular_vector_flow(student, teacher, self.vectors),
        }
