"""Normalised knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("nkd")
@dataclass(frozen=True)
class NKD(Method):
    """Trust labels as the teacher does, and match the other classes among themselves.

        loss = CE(z_s, y) - alpha * p_t(y) log p_s(y) + gamma * T^2 * H(n_t, n_s)

    with p = softmax(z), n the softmax over the classes k != y at temperature T, and H(n, m) = -sum_k n_k log m_k.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv:2303.13005, section 3.
    Differs: alpha is 1 in the paper; 0 leaves the second term out, as for a sum with another method's target term. The
        label's class is left out of n; an early release of the authors' code left it in by mistake.
    Defaults: gamma = 3.5, T = 3, alpha = 1 (authors' code, CIFAR-100, ResNet34 to ResNet18; gamma = 1.5, T = 1 on
        ImageNet). standardise: not stated; false (true: logit standardisation, arXiv:2403.01427).
    """

    gamma: float = hp(3.5, low=0.1, high=10, log=True, minimum=0, help="weight of the other classes")
    temperature: float = hp(3.0, low=0.5, high=8, log=True, minimum=0.01, help="softens the other classes")
    alpha: float = hp(1.0, minimum=0, help="weight of the label's class")
    standardise: bool = static(False, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the cross entropies for the labelled class and for the others."""
        z_s, z_t = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        others = losses.decoupled.soft_other_classes(z_s, z_t, s.labels, self.temperature)
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "target": self.alpha * losses.decoupled.soft_target_class(z_s, z_t, s.labels),
            "others": self.gamma * others,
        }
