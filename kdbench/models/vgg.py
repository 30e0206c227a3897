"""VGG networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.fields import size
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("vgg")
@dataclass(frozen=True)
class VGG(Model):
    """VGG with batch norm and one linear layer; vgg8 of the literature is depth 8.

    Source: Simonyan, Zisserman 2015, arXiv:1409.1556; the small form of HobbitLong/RepDistiller.
    """

    depth: int = size(8, allowed=(8, 11, 13, 16, 19), help="the number in the network's name")
    width: float = size(1.0, minimum=0.125, maximum=4, help="multiplies the channels 64, 128, 256, 512, 512")

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 8x8 pixels."""
        from kdbench.nets import vgg

        return vgg.VGG(input_shape, classes, self.depth, self.width)
