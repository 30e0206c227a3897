"""L2-SP: stay near the starting point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench import losses
from kdbench.method import Method, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor


@register("l2sp")
@dataclass(frozen=True)
class L2SP(Method):
    """Fine-tune with weight decay towards the weights of the source task instead of towards zero.

        loss = CE(z_s, y) + alpha * 1/2 ||w - w_0||^2 + beta * 1/2 ||w_head||^2

    Source: Li, Grandvalet, Davoine 2018, arXiv:1802.01483, section 3.
    Differs: takes the place of the optimiser's weight decay, which is 0 by definition. w includes the scales and
        shifts of batch norm, as in Transfer-Learning-Library.
    Defaults: alpha = 0.01, beta = 0.01 (Transfer-Learning-Library, ResNet-50).
    """

    alpha: float = hp(0.01, low=1e-4, high=1, log=True, minimum=0, help="decay towards the starting point")
    beta: float = hp(0.01, low=1e-4, high=1, log=True, minimum=0, help="decay of the new classifier towards zero")

    reads = ()
    frozen = ()
    starts_from = "source"
    mean_over_samples = True

    def optimiser(self) -> dict[str, Any]:
        """No weight decay beside the penalty."""
        return {"weight_decay": 0.0}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy, distance from the start, and size of the classifier."""
        head = [w for name, w in s.params.items() if name.startswith(s.head)]
        kept = {name: w for name, w in s.params.items() if not name.startswith(s.head)}
        moved = losses.penalty.distance_from_start(kept.values(), [s.start[name] for name in kept])
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "start": self.alpha * moved,
            "head": self.beta * losses.penalty.half_squared_norm(head),
        }
