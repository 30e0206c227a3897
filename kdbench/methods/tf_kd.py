"""Teacher-free knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("tf_kd")
@dataclass(frozen=True)
class TfKD(Method):
    """Learn from a virtual teacher, which is right with high probability and knows nothing else.

        loss = (1 - alpha) * CE(z_s, y) + alpha * KL(d || q),    p(y) = correct, p(k) = (1 - correct) / (C - 1)

    with d = softmax(p / T) and q = softmax(z_s) in form = code, or d = softmax(log p / T) and q = softmax(z_s / T), the
    teacher at temperature T, in form = paper.

    The other half of the paper, Tf-KD by self-training, is no method but a scheme: kd with a teacher of the student's
    own architecture and size, trained before by the study.

    Source: Yuan, Tay, Li, Wang, Feng 2020, arXiv:1909.11723, equations 8 and 9 (Tf-KD_reg); their code has another
        divergence, hence the two forms.
    Differs: mean over the batch; the code's mean over batch and classes times a multiplier is the same where the
        multiplier is the number of classes, as in its settings of ResNet18.
    Defaults: alpha = 0.1, T = 20, correct = 0.99, form = code (authors' code, CIFAR-100, ResNet18). For form = paper
        not stated.
    """

    alpha: float = hp(0.1, low=0.05, high=0.95, minimum=0, maximum=1, help="weight of the virtual teacher")
    temperature: float = hp(20.0, low=1, high=50, log=True, minimum=0.01, help="softens the virtual teacher")
    correct: float = hp(0.99, minimum=0, maximum=1, help="probability that the virtual teacher gives the label")
    form: str = static("code", allowed=("code", "paper"), help="softening of the authors' code, or of their paper")

    reads = ()
    frozen = ()
    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and divergence from the virtual teacher."""
        divergence = losses.virtual_teacher.code_form if self.form == "code" else losses.virtual_teacher.paper_form
        return {
            "ce": (1 - self.alpha) * losses.kl.cross_entropy(s.student.logits, s.labels),
            "virtual": self.alpha * divergence(s.student.logits, s.labels, self.correct, self.temperature),
        }
