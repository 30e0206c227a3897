"""Deep mutual learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor


@register("dml")
@dataclass(frozen=True)
class DeepMutualLearning(Method):
    """Train two students together, each of which learns from the labels and from the other.

        loss = CE(z_1, y) + lambda * T^2 * KL(p_2 || p_1) + CE(z_2, y) + lambda * T^2 * KL(p_1 || p_2)

    with p_i = softmax(z_i / T); in each divergence the first distribution is a target, without gradient.

    Source: Zhang, Xiang, Hospedales, Lu 2018, arXiv:1706.00384, section 2.
    Differs: both students step at once on the same outputs, where the paper updates the first and runs it again
        before the second. Two students of one architecture; the first is kept.
    Defaults: lambda = 1, T = 1 (paper).
    """

    temperature: float = hp(1.0, minimum=0.01, help="softens both distributions")
    lambda_: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the divergences")

    reads = ()
    trained = ("student", "peer")
    frozen = ()
    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy of both students, and divergence of each from the other."""
        student, peer = s.student.logits, s.nets["peer"].logits
        return {
            "ce": losses.kl.cross_entropy(student, s.labels),
            "mutual": self.lambda_ * losses.kl.distillation(student, peer.detach(), self.temperature),
            "peer_ce": losses.kl.cross_entropy(peer, s.labels),
            "peer_mutual": self.lambda_ * losses.kl.distillation(peer, student.detach(), self.temperature),
        }
