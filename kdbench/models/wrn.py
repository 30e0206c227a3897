"""Wide ResNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.fields import size
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("wrn")
@dataclass(frozen=True)
class WRN(Model):
    """Wide ResNet of depth 6n+4; WRN-40-2 of the literature is depth 40, width 2.

    Source: Zagoruyko, Komodakis 2016, arXiv:1605.07146.
    """

    depth: int = size(16, allowed=(10, 16, 22, 28, 34, 40), help="layers with weights, 6n+4")
    width: float = size(2.0, minimum=0.125, maximum=16, help="widening factor of the channels 16, 32, 64 of the stages")

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 4x4 pixels."""
        from kdbench.nets import wrn

        return wrn.WideResNet(input_shape, classes, self.depth, self.width)
