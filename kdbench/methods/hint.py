"""FitNets' first stage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("hint")
@dataclass(frozen=True)
class Hint(Method):
    """Train the student up to one inner layer on the teacher's features there, and on nothing else: a start for others.

        loss = beta * mean((r(f_s) - f_t)^2),    r = ReLU(BN(conv(.)))

    Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, arXiv:1412.6550, equation 3 and algorithm 1, stage 1.
    Differs: mean over elements, where the paper has half of the sum. The regressor is that of `fitnet`. What a stage of
        a study trains with this method is the start of the next, with `kd` for the paper's second stage; the classifier
        and the stages after the layer keep their first weights until then.
    Defaults: layer = stage2 (as `fitnet`; the paper takes the middle layer). beta = 100 (as `fitnet`; not stated for
        this stage alone, where it only scales the learning rate).
    """

    beta: float = hp(100.0, low=1, high=1000, log=True, minimum=0, help="weight of the hint")
    layer: str = static("stage2", help="feature that is matched, by its name in both networks")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The regressor. Raise MethodError where a network has no such layer."""
        student, teacher = setup.stage("student", self.layer), setup.stage("teacher", self.layer)
        return {"regressor": losses.regression.Regressor(student, teacher)}

    def trains(self, parameter: str, head: str) -> bool:
        """All but the classifier and, where names tell it, the stages after the layer."""
        own, last = re.match(r"stage(\d+)\.", parameter), re.fullmatch(r"stage(\d+)", self.layer)
        after = own is not None and last is not None and int(own[1]) > int(last[1])
        return not after and not parameter.startswith(head)

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Squared distance from the hint."""
        hint = s.aux["regressor"](s.student.features[self.layer])
        return {"hint": self.beta * losses.regression.mse(hint, s.target.features[self.layer])}
