"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor


@register("label_smoothing")
@dataclass(frozen=True)
class LabelSmoothing(Method):
    """Train on labels that give a share of the probability to all classes alike: a teacher that knows nothing.

        loss = CE(z_s, (1 - smoothing) * onehot(y) + smoothing / C)

    Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, arXiv:1512.00567, section 7.
    Differs: nothing.
    Defaults: smoothing = 0.1 (paper, ImageNet); for CIFAR not stated.
    """

    smoothing: float = hp(0.1, low=0.01, high=0.5, log=True, minimum=0, maximum=1, help="share spread over all classes")

    reads = ()
    frozen = ()
    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy against smoothed labels."""
        return {"ce": losses.kl.smoothed_cross_entropy(s.student.logits, s.labels, self.smoothing)}
