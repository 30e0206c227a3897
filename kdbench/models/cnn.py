"""Small plain convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.fields import size
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("cnn")
@dataclass(frozen=True)
class CNN(Model):
    """Plain convolutional network of depth 3n+2 for images of 8 to 64 pixels: stem, three stages, head."""

    depth: int = size(5, allowed=(5, 8, 11, 14), help="layers with weights, 3n+2")
    width: float = size(1.0, minimum=0.125, maximum=16, help="multiplies the channels 16, 32, 64 of the stages")

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 4x4 pixels."""
        from kdbench.nets import cnn

        return cnn.CNN(input_shape, classes, self.depth, self.width)
