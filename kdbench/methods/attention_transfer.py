"""Attention transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("attention_transfer")
@dataclass(frozen=True)
class AttentionTransfer(Method):
    """Match where in the image the features of each stage are strong.

        loss = CE(z_s, y) + beta * sum_k d(a(f_s^k), a(f_t^k)),    a(f) = normalise(mean_c |f_c|^power)

    with d the squared difference, mean over pixels (form `code`; form `zoo` adds 1e-6 to the norm of a map), or the L2
    norm (form `paper`).

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2; their code has another d, hence the two forms.
    Differs: stages are paired by number as far as both networks have them; of two maps of unequal size the larger is
        average-pooled, as in RepDistiller. No factor 1/2 before beta.
    Defaults: beta = 1000, power = 2, form = code (RepDistiller and mdistiller, CIFAR-100). For form = paper not stated:
        its values are larger by about the number of pixels of a map, so narrow beta to [1, 100] with it.
    """

    beta: float = hp(1000.0, low=1, high=10000, log=True, minimum=0, help="weight of the attention term")
    form: str = static(
        "code",
        allowed=("code", "paper", "zoo"),
        help="distance of the authors' code, of their paper, or of Knowledge-Distillation-Zoo",
    )
    power: int = static(2, allowed=(1, 2, 4), added=True, help="power of the absolute features")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """No modules. Raise MethodError where the networks share no stage that has feature maps."""
        losses.stages.require_maps("attention", setup, losses.stages.shared(setup.student, setup.teacher))
        return {}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the distance of the attention maps, summed over stages."""
        distance = getattr(losses.attention, f"{self.form}_form")
        student, teacher = s.student.features, s.target.features
        stages = [distance(student[name], teacher[name], self.power) for name in losses.stages.shared(student, teacher)]
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "attention": self.beta * sum(stages)}
