"""CIFAR ResNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.fields import size, static
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("resnet")
@dataclass(frozen=True)
class ResNet(Model):
    """CIFAR ResNet of depth 6n+2 with channels 16, 32, 64; resnet32x4 of the literature is depth 32, width 4.

    Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2.
    """

    depth: int = size(20, allowed=(8, 14, 20, 26, 32, 38, 44, 50, 56, 110), help="layers with weights, 6n+2")
    width: float = size(1.0, minimum=0.125, maximum=16, help="multiplies the channels 16, 32, 64 of the stages")
    shortcut: str = static(
        "projection", allowed=("projection", "A"), help="1x1 convolution and batch norm, or no parameters (option A)"
    )

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 4x4 pixels."""
        from kdbench.nets import resnet

        return resnet.ResNet(input_shape, classes, self.depth, self.width, self.shortcut)
