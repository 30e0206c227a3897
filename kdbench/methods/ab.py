"""Activation boundaries (AB)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.lazy import torch
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn

SCALE = 3 / 1000  # of the authors' code, so that beta is near 1


@register("ab")
@dataclass(frozen=True)
class AB(Method):
    """Match which neurons of each stage are active, then learn the labels.

        loss = beta * 3/1000 * sum_k 2^(k - K) * |h(r_k(p_s^k), p_t^k)|_1 / B, then CE(z_s, y) after `share` of training

    with p the features before the activation, K stages, B samples, h(s, t) = relu(margin - s)^2 where t > 0 and
    relu(margin + s)^2 elsewhere, and r_k a convolution with batch norm where shapes differ.

    Source: Heo, Lee, Yun, Choi 2019, arXiv:1811.03233, section 3, and the authors' code.
    Differs: the first stage is a share of the training, where RepDistiller has 30 epochs before its 240. What a
        stage does not train keeps its weight decay. Stages are paired by number as far as both networks have them. A
        stage without a last activation gives its feature.
    Defaults: beta = 1, margin = 1, share = 0.125, first_ce_weight = 0 (RepDistiller, CIFAR-100: 30 epochs of 240). For
        one stage with both terms: first_ce_weight = 1, share = 1.
    """

    beta: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the boundaries in the first stage")
    margin: float = hp(1.0, low=0.25, high=4, log=True, minimum=0, help="distance from the boundary that is enough")
    share: float = hp(0.125, minimum=0, maximum=1, help="share of training that is the first stage")
    first_ce_weight: float = hp(0.0, minimum=0, help="weight of the cross entropy in the first stage")

    reads = ("preactivations",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """Connectors for stages whose shapes differ. Raise MethodError where the networks share no stage."""
        names = losses.stages.shared(setup.student, setup.teacher)
        shapes = {name: (setup.student[name], setup.teacher[name]) for name in names}
        return {k: losses.regression.Regressor(s, t, relu=False) for k, (s, t) in shapes.items() if s != t}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Distance from the boundaries in the first stage, cross entropy in the second."""
        student, teacher = s.student.preactivations, s.target.preactivations
        names = losses.stages.shared(student, teacher)
        stages = []
        for name, weight in zip(names, losses.boundary.layer_weights(len(names)), strict=True):
            values = s.aux[name](student[name]) if name in s.aux else student[name]
            stages.append(weight * losses.boundary.squared_hinge(values, teacher[name], self.margin).sum())
        first = losses.ramp.before(s.progress, self.share)
        ce_weight = first * self.first_ce_weight + (1 - first)
        return {
            "ce": ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "boundary": first * self.beta * SCALE / len(s.labels) * torch.stack(stages).sum(),
        }
