"""Logit regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("logit_mse")
@dataclass(frozen=True)
class LogitMSE(Method):
    """Match the teacher's logits by squared error.

        loss = ce_weight * CE(z_s, y) + lambda * mean((z_s - z_t)^2)

    Source: Ba, Caruana 2014, arXiv:1312.6184, section 2.2.
    Differs: mean over batch and classes, where the paper has 1/2 of the squared norm per sample; the paper uses no
        labels (ce_weight = 0).
    Defaults: lambda = 0.1, ce_weight = 1 (Knowledge-Distillation-Zoo, CIFAR); for the paper's form not stated.
        standardise = false; true is logit standardisation (Sun et al. 2024, arXiv:2403.01427), for this loss not
        stated.
    """

    lambda_: float = hp(0.1, low=0.01, high=10, log=True, minimum=0, help="weight of the squared error")
    ce_weight: float = hp(1.0, minimum=0, help="weight of the cross entropy with the labels")
    standardise: bool = static(False, added=True, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and squared distance from the teacher's logits."""
        student, teacher = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        return {
            "ce": self.ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "mse": self.lambda_ * losses.regression.mse(student, teacher),
        }
