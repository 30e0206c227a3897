"""Fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor


@register("finetune")
@dataclass(frozen=True)
class FineTune(Method):
    """Start from the weights of the source task and train all of them.

        loss = CE(z_s, y), w_0 = weights of the source task, new classifier

    Source: Yosinski, Clune, Bengio, Lipson 2014, arXiv:1411.1792, section 2 (fine-tuned transfer, 'AnB+').
    Differs: nothing. Combined with another transfer method, its learning rate factor holds for that one.
    Defaults: backbone_lr_factor = 1, one learning rate for all weights (paper); 0.1 in Transfer-Learning-Library.
        Searched only where a study gives a range, such as {low: 0.01, high: 1, log: true}: studies of the first release
        searched nothing here, and their trials stay what they were.
    """

    backbone_lr_factor: float = hp(
        1.0, minimum=0, added=True, help="learning rate of all but the classifier, as a share of the recipe's"
    )

    reads = ()
    frozen = ()
    starts_from = "source"
    mean_over_samples = True

    def lr_factor(self, parameter: str, head: str) -> float:
        """1 for the classifier, backbone_lr_factor for all other weights."""
        return 1.0 if parameter.startswith(head) else self.backbone_lr_factor

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy."""
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
