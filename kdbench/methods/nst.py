"""Neuron selectivity transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("nst")
@dataclass(frozen=True)
class NST(Method):
    """Match the distribution, over the channels of a stage, of where in the image a channel is active.

        loss = CE(z_s, y) + beta * sum_k MMD^2(f_s^k, f_t^k),    MMD^2 = K(t, t) + K(s, s) - 2 K(s, t)

    with K(a, b) the mean of (a_c . b_c')^2 over batch and pairs of channels, whose maps are vectors of L2 norm 1.

    Source: Huang, Wang 2017, arXiv:1707.01219, section 4 (polynomial kernel, d = 2, c = 0).
    Differs: stages are paired by number as far as both networks have them, where the paper matches the last; of two
        maps of unequal size the larger is average-pooled; no factor 1/2 before beta. All as in RepDistiller, but the
        kernel is one matrix product instead of B * c * c' * h * w summands: the same value without the memory.
    Defaults: beta = 50 (RepDistiller, CIFAR-100).
    """

    beta: float = hp(50.0, low=1, high=1000, log=True, minimum=0, help="weight of the discrepancy")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """No modules. Raise MethodError where the networks share no stage that has feature maps."""
        losses.stages.require_maps("nst", setup, losses.stages.shared(setup.student, setup.teacher))
        return {}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the discrepancy, summed over stages."""
        student, teacher = s.student.features, s.target.features
        names = losses.stages.shared(student, teacher)
        stages = [losses.nst.neuron_selectivity(student[name], teacher[name]) for name in names]
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "selectivity": self.beta * sum(stages)}
