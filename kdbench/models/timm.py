"""Any network of timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdbench.models._adapter import Adapter
from kdbench.models._base import register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("timm")
@dataclass(frozen=True)
class Timm(Adapter):
    """Any classification network of timm by its name there, with the stem fitted to small images."""

    package: ClassVar[str] = "timm"

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 8x8 pixels. Raise KdbenchError for an unknown arch."""
        from kdbench.nets import timm_net

        return timm_net.TimmNetwork(self.arch, input_shape, classes, self.pretrained, self.stem)
