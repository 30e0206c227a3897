"""What families that wrap another package have in common."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from kdbench.fields import static
from kdbench.models._base import Model


@dataclass(frozen=True)
class Adapter(Model):
    """Any network of `package` by its name there."""

    package: ClassVar[str]

    arch: str = static("resnet18", help="a name of the package's list_models()")
    pretrained: bool = static(False, help="start from the package's weights (fetched over the network once)")
    stem: str = static(
        "auto",
        allowed=("auto", "small", "original"),
        help="small: keep the size of the image in the first layers; auto: small up to 64 pixels",
    )

    def problems(self) -> list[str]:
        """Say if the package is missing or no arch is named. Whether the package has it shows when it is built."""
        problems = []
        if find_spec(self.package) is None:
            problems.append(
                f"model {self.name} needs the package {self.package}. Install it with: pip install 'kdbench[vision]'."
            )
        if not self.arch:
            problems.append(f"model {self.name} needs arch: a name such as resnet18.")
        return problems
