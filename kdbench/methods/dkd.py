"""Decoupled knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("dkd")
@dataclass(frozen=True)
class DKD(Method):
    """Match the probability of the label and the shares of the other classes, each with a weight of its own.

        loss = ce_weight * CE(z_s, y) + w * T^2 * (alpha * KL(b_t || b_s) + beta * KL(n_t || n_s))

    with b = (p_y, 1 - p_y) of p = softmax(z / T), n the softmax over the other classes at T, and w rising from 0 to 1
    over the first `warmup` of training.

    Source: Zhao, Cui, Song, Qiu, Liang 2022, arXiv:2203.08679, equation 7.
    Differs: in log space, where mdistiller takes the logarithm of probabilities and is not finite once one underflows.
        The warm-up rises at every step, in mdistiller at every epoch.
    Defaults: alpha = 1, beta = 8, T = 4, warmup = 1/12 (20 of 240 epochs), ce_weight = 1 (mdistiller, CIFAR-100,
        resnet32x4 to resnet8x4; beta = 2 for resnet56 to resnet20, 6 for WRN and VGG). standardise = false (true: logit
        standardisation, arXiv:2403.01427, which states T = 2).
    """

    alpha: float = hp(1.0, minimum=0, help="weight of the label's probability")
    beta: float = hp(8.0, low=0.5, high=20, log=True, minimum=0, help="weight of the shares of the other classes")
    temperature: float = hp(4.0, low=1, high=20, log=True, minimum=0.01, help="softens both distributions")
    warmup: float = hp(20 / 240, minimum=0, maximum=1, help="share of training over which the distillation sets in")
    ce_weight: float = hp(1.0, minimum=0, help="weight of the cross entropy with the labels")
    standardise: bool = static(False, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the divergences for the labelled class and for the others."""
        z_s, z_t = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        weight = losses.ramp.ramp(s.progress, self.warmup)
        target = losses.decoupled.target_class(z_s, z_t, s.labels, self.temperature)
        others = losses.decoupled.other_classes(z_s, z_t, s.labels, self.temperature)
        return {
            "ce": self.ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "tckd": weight * self.alpha * target,
            "nckd": weight * self.beta * others,
        }
