"""Agreement of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("agreement")
@dataclass(frozen=True)
class Agreement(Method):
    """Make it likely that a class drawn from the student's probabilities is the one drawn from the teacher's.

        loss = CE(z_s, y) + lambda * E + beta * E / tau,    E = -log sum_k p_s(k) p_t(k),    p = softmax(z / T)

    Source: not stated for the loss; sum_k p_s(k) p_t(k) is the expected likelihood kernel of Jebara, Kondor, Howard
        2004, Probability Product Kernels (JMLR 5). E is the mean over the batch.
    Differs: E rewards a student that is certain of the teacher's first choice, not one that has its probabilities. The
        two terms in E differ by their weights alone, so only lambda + beta / tau matters: search one of the three.
    Defaults: lambda = 0.5, beta = 0.5, tau = 4, T = 4; not stated. standardise: not stated; false (true: logit
        standardisation, arXiv:2403.01427).
    """

    lambda_: float = hp(0.5, low=0.05, high=5, log=True, minimum=0, help="weight of the agreement")
    beta: float = hp(0.5, minimum=0, help="weight of the agreement divided by tau")
    tau: float = hp(4.0, minimum=0.01, help="divides the third term")
    temperature: float = hp(4.0, low=1, high=20, log=True, minimum=0.01, help="softens both distributions")
    standardise: bool = static(False, help="compare z-scores of each sample's logits")

    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the disagreement with the teacher, twice."""
        student, teacher = losses.logits.pair(s.student.logits, s.target.logits, self.standardise)
        surprise = losses.kl.agreement(student, teacher, self.temperature)
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "agreement": self.lambda_ * surprise,
            "agreement_tau": self.beta * surprise / self.tau,
        }
