"""The student alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, register

if TYPE_CHECKING:
    from torch import Tensor


@register("scratch")
@dataclass(frozen=True)
class Scratch(Method):
    """Train the student alone on the labels: the baseline of every table.

        loss = CE(z_s, y)

    Source: none; ordinary supervised training.
    Differs: nothing.
    Defaults: none.
    """

    reads = ()
    frozen = ()
    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy."""
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
