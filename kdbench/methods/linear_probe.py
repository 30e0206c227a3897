"""Linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, register

if TYPE_CHECKING:
    from torch import Tensor


@register("linear_probe")
@dataclass(frozen=True)
class LinearProbe(Method):
    """Train only the classifier on the features of the source task.

        loss = CE(z_s, y), gradient for the classifier alone

    Source: Alain, Bengio 2016, arXiv:1610.01644.
    Differs: the probe is the student's own classifier on its last features. Batch-norm statistics keep the values of
        the source task: the trainer holds layers whose parameters are all frozen in eval mode.
    Defaults: none.
    """

    reads = ()
    frozen = ()
    starts_from = "source"
    mean_over_samples = True

    def trains(self, parameter: str, head: str) -> bool:
        """Only the classifier."""
        return parameter.startswith(head)

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy."""
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
