"""Curriculum temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ctkd")
@dataclass(frozen=True)
class CTKD(Method):
    """Distil at a temperature that is itself trained to make the distillation hard, ever more so as training goes on.

        loss = ce_weight * CE(z_s, y) + lambda * T^2 * KL(softmax(z_t / T) || softmax(z_s / T)),
        T = temperature_low + temperature_range * s(u)

    with the sigmoid s, and u trained by the gradient of the loss times -w, where w rises from 0 to 1 as half a cosine
    wave over the first `warmup` of training. u is one number (form `global`), or computed for each sample from both
    networks' logits by two linear layers (form `instance`).

    Source: Li, Li, Yang, Zhao, Song, Luo, Li, Yang 2023, arXiv:2211.16231, section 3.
    Differs: the wave rises at every step, in the authors' code at every epoch. In form = instance the layers' width is
        not stated and is 2 C here, and no gradient reaches the student through T, so that the student alone minimises.
    Defaults: temperature_low = 1, temperature_range = 20, warmup = 1/24 (10 of 240 epochs), lambda = 0.9, ce_weight =
        0.1, form = global (authors' code, CIFAR-100). standardise = false (true: logit standardisation,
        arXiv:2403.01427).
    """

    temperature_low: float = hp(1.0, minimum=0.01, help="lower limit of the temperature")
    temperature_range: float = hp(
        20.0, low=2, high=40, log=True, minimum=0, help="upper limit of the temperature minus the lower"
    )
    warmup: float = hp(
        10 / 240, minimum=0, maximum=1, help="share of training over which the temperature's part sets in"
    )
    lambda_: float = hp(0.9, low=0.1, high=10, log=True, minimum=0, help="weight of the distillation term")
    ce_weight: float = hp(0.1, minimum=0, help="weight of the cross entropy with the labels")
    form: str = static("global", allowed=("global", "instance"), help="one temperature, or one for each sample")
    standardise: bool = static(False, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The learned temperature."""
        if self.form == "global":
            return {"temperature": losses.temperature.GlobalTemperature()}
        return {"temperature": losses.temperature.InstanceTemperature(setup.classes)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and divergence from the teacher at the learned temperature."""
        student, teacher = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        adversity = losses.temperature.curriculum(s.progress, self.warmup)
        raw = losses.temperature.reverse_gradient(s.aux["temperature"](student, teacher), adversity)
        temperature = self.temperature_low + self.temperature_range * raw.sigmoid()
        return {
            "ce": self.ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "kd": self.lambda_ * losses.kl.per_sample(student, teacher, temperature).mean(),
        }
