"""Knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("kd")
@dataclass(frozen=True)
class KD(Method):
    """Match softened class probabilities of teacher and student.

        loss = ce_weight * CE(z_s, y) + lambda * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    Differs: mean over the batch ('batchmean'). The two weights are free of each other: ce_weight = 1 is the textbook
        form CE + lambda * KD, ce_weight = 0.1 with lambda = 0.9 is that of the CIFAR-100 tables.
    Defaults: T = 4, lambda = 0.9, ce_weight = 0.1 (RepDistiller and mdistiller, CIFAR-100). standardise = false; true
        is logit standardisation (Sun et al. 2024, arXiv:2403.01427), published with T = 2, lambda = 9, ce_weight = 0.1.
    """

    temperature: float = hp(4.0, low=1, high=20, log=True, minimum=0.01, help="softens both distributions")
    lambda_: float = hp(0.9, low=0.1, high=10, log=True, minimum=0, help="weight of the distillation term")
    ce_weight: float = hp(0.1, minimum=0, help="weight of the cross entropy with the labels")
    standardise: bool = static(False, added=True, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and divergence from the teacher."""
        student, teacher = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        return {
            "ce": self.ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "kd": self.lambda_ * losses.kl.distillation(student, teacher, self.temperature),
        }
