"""Any network of timm."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kdbench.fields import static
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("timm")
@dataclass(frozen=True)
class Timm(Model):
    """Any classification network of timm by its name there, with the stem fitted to small images."""

    arch: str = static("resnet18", help="a name of timm.list_models()")
    pretrained: bool = static(False, help="start from the package's weights (fetched over the network once)")
    stem: str = static(
        "auto",
        allowed=("auto", "small", "original"),
        help="small: keep the size of the image in the first layers; auto: small up to 64 pixels",
    )

    def problems(self) -> list[str]:
        """Say if the package is missing or no arch is named. Whether the package has it shows when it is built."""
        problems = []
        if find_spec("timm") is None:
            problems.append("model timm needs the package timm. Install it with: pip install 'kdbench[vision]'.")
        if not self.arch:
            problems.append("model timm needs arch: a name such as resnet18.")
        return problems

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 8x8 pixels. Raise KdbenchError for an unknown arch."""
        from kdbench.nets import timm_net

        return timm_net.TimmNetwork(self.arch, input_shape, classes, self.pretrained, self.stem)
