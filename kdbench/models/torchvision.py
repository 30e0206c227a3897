"""Any network of torchvision.models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kdbench.fields import static
from kdbench.models._base import Model, register

if TYPE_CHECKING:
    from kdbench.nets.base import Network


@register("torchvision")
@dataclass(frozen=True)
class Torchvision(Model):
    """Any classification network of torchvision.models by its name there, with the stem fitted to small images."""

    arch: str = static("resnet18", help="a name of torchvision.models.list_models(module=torchvision.models)")
    pretrained: bool = static(False, help="start from the package's weights (fetched over the network once)")
    stem: str = static(
        "auto",
        allowed=("auto", "small", "original"),
        help="small: keep the size of the image in the first layers; auto: small up to 64 pixels",
    )

    def problems(self) -> list[str]:
        """Say if the package is missing or no arch is named. Whether the package has it shows when it is built."""
        problems = []
        if find_spec("torchvision") is None:
            problems.append(
                "model torchvision needs the package torchvision. Install it with: pip install 'kdbench[vision]'."
            )
        if not self.arch:
            problems.append("model torchvision needs arch: a name such as resnet18.")
        return problems

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network for images of at least 8x8 pixels. Raise KdbenchError for an unknown arch."""
        from kdbench.nets import torchvision_net

        return torchvision_net.TorchvisionNetwork(self.arch, input_shape, classes, self.pretrained, self.stem)
