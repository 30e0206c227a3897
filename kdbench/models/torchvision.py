"""Any network of torchvision.models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdbench.models._adapter import Adapter
from kdbench.models._base import register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("torchvision")
@dataclass(frozen=True)
class Torchvision(Adapter):
    """Any classification network of torchvision.models by its name there, with the stem fitted to small images."""

    package: ClassVar[str] = "torchvision"

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 8x8 pixels. Raise KdbenchError for an unknown arch."""
        from kdbench.nets import torchvision_net

        return torchvision_net.TorchvisionNetwork(self.arch, input_shape, classes, self.pretrained, self.stem)
