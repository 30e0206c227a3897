"""Fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, register

if TYPE_CHECKING:
    from torch import Tensor


@register("finetune")
@dataclass(frozen=True)
class FineTune(Method):
    """Start from the weights of the source task and train all of them.

        loss = CE(z_s, y), w_0 = weights of the source task, new classifier

    Source: Yosinski, Clune, Bengio, Lipson 2014, arXiv:1411.1792, section 2 (fine-tuned transfer, 'AnB+').
    Differs: one learning rate for all weights; Transfer-Learning-Library gives the backbone a tenth of it.
    Defaults: none.
    """

    reads = ()
    frozen = ()
    starts_from = "source"

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy."""
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
