"""Learning without forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("lwf")
@dataclass(frozen=True)
class LearningWithoutForgetting(Method):
    """Fine-tune while the classifier of the source task keeps saying of the target's images what it said at first.

        loss = CE(z_s, y) + lambda * KL(softmax(z_0 / T) || softmax(h_0(f) / T))

    with h_0 the classifier of the source task, which is trained further on the student's pooled features f, and z_0 the
    logits of the frozen source network on the same images.

    Source: Li, Hoiem 2016, arXiv:1606.09282, section 3.
    Differs: divergence in place of cross entropy, which is larger by a constant. No T^2, as in the paper. The paper
        first trains the new classifier alone: run linear_probe before. Its answers of the source network are those on
        the view at hand, where the paper records one for each image.
    Defaults: lambda = 1, T = 2 (paper); lambda = 4, T = 3 in Transfer-Learning-Library.
    """

    temperature: float = hp(2.0, low=1, high=10, log=True, minimum=0.01, help="softens both distributions")
    lambda_: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the source classifier's term")

    reads = ()
    frozen = ("source",)
    starts_from = "source"
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The source classifier. Raise MethodError if it is not linear."""
        from kdbench.nets.source_head import source_head

        return {"source_head": source_head("lwf", setup)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and divergence of the source classifier from what it was."""
        kept = s.aux["source_head"](s.student.pooled)
        forgotten = losses.kl.distillation(kept, s.nets["source"].logits, self.temperature) / self.temperature**2
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "source": self.lambda_ * forgotten,
        }
