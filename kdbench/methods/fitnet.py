"""FitNets: hints from an inner layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("fitnet")
@dataclass(frozen=True)
class FitNet(Method):
    """Match the teacher's features of one inner layer through a trained regressor r.

        loss = CE(z_s, y) + beta * mean((r(f_s) - f_t)^2),    r = ReLU(BN(conv(.)))

    Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, arXiv:1412.6550, section 2.
    Differs: one stage, where the paper trains on the hint first and distils the logits afterwards. The regressor has
        batch norm and ReLU, as RepDistiller's ConvReg; its shape follows from the two networks.
    Defaults: beta = 100, layer = stage2 (RepDistiller, CIFAR-100: hint_layer 2).
    """

    beta: float = hp(100.0, low=1, high=1000, log=True, minimum=0, help="weight of the hint")
    layer: str = static("stage2", help="feature that is matched, by its name in both networks")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The regressor. Raise MethodError where a network has no such layer."""
        student, teacher = setup.stage("student", self.layer), setup.stage("teacher", self.layer)
        return {"regressor": losses.regression.Regressor(student, teacher)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and squared distance from the hint."""
        hint = s.aux["regressor"](s.student.features[self.layer])
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "hint": self.beta * losses.regression.mse(hint, s.target.features[self.layer]),
        }
