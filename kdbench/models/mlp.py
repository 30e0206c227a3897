"""Multi-layer perceptrons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.fields import size
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("mlp")
@dataclass(frozen=True)
class MLP(Model):
    """Multi-layer perceptron with batch norm, for rows of numbers or flattened images; features are vectors."""

    depth: int = size(3, minimum=2, maximum=64, help="linear layers, the head included")
    width: float = size(1.0, minimum=0.03125, maximum=64, help="multiplies the 128 units of the hidden layers")

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for data of any shape."""
        from kdbench.nets import mlp

        return mlp.MLP(input_shape, classes, self.depth, self.width)
